// The Predict tab: photos from files, drops, the clipboard and the camera. Loaded after page.js.
"use strict";
(() => {
  const query = (selector) => document.querySelector(selector);
  const PHOTO_INPUT = "#photo input[type=file]";
  const SEVERAL_INPUT = "#photo-buttons input[type=file]";
  const FRAME_SIDE = 256; // pixels of the shorter side of a frame
  const FRAME_INTERVAL = 125; // milliseconds from one frame to the next, or until its labels
  const RETRY_INTERVAL = 1000; // milliseconds after a frame without labels
  const ANNOUNCE_INTERVAL = 3000; // milliseconds between two labels that a screen reader hears

  // -- photos --------------------------------------------------------------------------------------------------------

  let isOwn = false; // whether the event comes from `setFiles`
  let wasCleared = false; // whether the last deed on the page was to clear the photo
  const isImage = (file) => file.type.startsWith("image/");

  // Gradio refuses files that the browser gives no image type, such as HEIC. The server decides, and gives a reason.
  function setFiles(input, files) {
    const transfer = new DataTransfer();
    for (const file of files) {
      transfer.items.add(isImage(file) ? file : new File([file], file.name, { type: "image/unknown" }));
    }
    input.files = transfer.files;
    isOwn = true;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    isOwn = false;
  }

  async function waitUntil(isTrue) {
    for (let frame = 0; frame < 300 && !isTrue(); frame++) await new Promise(requestAnimationFrame);
  }

  async function clearPhoto() {
    if (!query("#photo img")) return;
    query("#clear-photo").click();
    await waitUntil(() => !query("#photo img"));
  }

  // In place of the photo that is there, if there is one.
  async function setPhoto(file) {
    await clearPhoto();
    await waitUntil(() => query(PHOTO_INPUT));
    setFiles(query(PHOTO_INPUT), [file]);
  }

  function addSeveral(files) {
    const { photos, bytes } = resnetHub.limits;
    const size = [...files].reduce((sum, file) => sum + file.size, 0);
    if (files.length > photos || size > bytes) return query("#several-refused").click();
    query("#several-panel").dataset.state = "uploading";
    resnetHub.scrollTo(query("#several-panel"));
    setFiles(query(SEVERAL_INPUT), files);
  }

  const add = (files) => (files.length > 1 ? addSeveral(files) : setPhoto(files[0]));

  // Files as the browser gives them pass Gradio's own handlers only where these take them as they are.
  function choose(event) {
    const { target } = event;
    wasCleared = false;
    const isPhoto = target.matches?.(PHOTO_INPUT);
    if ((!isPhoto && !target.matches?.(SEVERAL_INPUT)) || isOwn || !target.files.length) return;
    if (isPhoto && target.files.length === 1 && isImage(target.files[0])) return;
    event.stopImmediatePropagation();
    const files = [...target.files];
    target.value = ""; // so that the same files can be chosen again
    isPhoto ? add(files) : addSeveral(files);
  }

  function drop(event) {
    if (!event.target.closest?.("#photo-panel") || !event.dataTransfer.files.length) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    add([...event.dataTransfer.files]);
  }

  // Over a photo, the browser would open the file in place of the page.
  function allowDrop(event) {
    if (event.target.closest?.("#photo-panel")) event.preventDefault();
  }

  function paste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || !query("#photo-panel")?.checkVisibility()) return;
    event.stopImmediatePropagation();
    add(files);
  }

  function takePhoto() {
    const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    input.setAttribute("capture", "environment");
    input.addEventListener("change", () => input.files.length && setPhoto(input.files[0]));
    input.click();
  }

  // -- the live camera -----------------------------------------------------------------------------------------------

  let stream = null; // of the camera that is on
  let starts = 0; // of the camera; an older one that is still opening is closed again

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  async function startLive(deviceId) {
    stopLive();
    const number = ++starts;
    let opened = null;
    try {
      const camera = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
      opened = await navigator.mediaDevices.getUserMedia({ video: { ...camera, width: { ideal: 1280 } } });
    } catch {
      if (number === starts) query("#photo-columns").dataset.live = "failed";
      return;
    }
    await clearPhoto();
    if (number !== starts || document.hidden) return opened.getTracks().forEach((track) => track.stop());
    stream = opened;
    query("#photo-columns").dataset.live = "on";
    const video = query("#live video");
    video.srcObject = stream;
    if (resnetHub.isNarrow()) resnetHub.scrollTo(query("#photo-panel")); // the labels are below
    stream.getVideoTracks()[0].addEventListener("ended", stopLive);
    const devices = await navigator.mediaDevices.enumerateDevices();
    const isOnly = devices.filter(({ kind }) => kind === "videoinput").length < 2;
    query("#other-camera").classList.toggle("only-for-scripts", isOnly);
    await sendFrames(video, opened);
  }

  function stopLive() {
    starts++;
    delete query("#photo-columns").dataset.live;
    if (!stream) return;
    stream.getTracks().forEach((track) => track.stop());
    stream = query("#live video").srcObject = null;
    query("#live-labels").replaceChildren();
  }

  async function switchCamera() {
    const current = stream?.getVideoTracks()[0].getSettings().deviceId;
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter(({ kind }) => kind === "videoinput").map((device) => device.deviceId);
    await startLive(cameras[(cameras.indexOf(current) + 1) % cameras.length]);
  }

  // The whole frame, its shorter side at most `side` pixels long, as a JPEG.
  function grabFrame(video, side, quality) {
    const { videoWidth: width, videoHeight: height } = video;
    const scale = Math.min(1, side / Math.min(width, height));
    const canvas = Object.assign(document.createElement("canvas"), {
      width: Math.round(width * scale),
      height: Math.round(height * scale),
    });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", quality));
  }

  // One frame at a time, so that a busy server gets fewer of them.
  async function sendFrames(video, current) {
    await video.play().catch(() => {});
    while (stream === current) {
      const start = performance.now();
      const isDone = !video.videoWidth || (await sendFrame(video, current));
      await pause(isDone ? start + FRAME_INTERVAL - performance.now() : RETRY_INTERVAL);
    }
  }

  async function sendFrame(video, current) {
    try {
      const body = await grabFrame(video, FRAME_SIDE, 0.8);
      const model = encodeURIComponent(query("#summary [data-model]")?.dataset.model ?? "");
      const response = await fetch(`gradio_api/live?model=${model}`, { method: "POST", body });
      const labels = await response.text();
      if (stream === current && (response.ok || response.status === 400)) showLabels(labels);
      return response.ok;
    } catch {
      return false;
    }
  }

  let announcedAt = 0;
  function showLabels(labels) {
    const box = query("#live-labels");
    box.innerHTML = labels; // of our server, which escapes them
    box.dataset.frames = Number(box.dataset.frames ?? 0) + 1;
    if (performance.now() - announcedAt < ANNOUNCE_INTERVAL) return;
    announcedAt = performance.now();
    resnetHub.announce(box.querySelector("h2, p").textContent);
  }

  async function keepFrame() {
    const video = query("#live video");
    const current = stream;
    if (video.readyState < 2) await new Promise((done) => video.addEventListener("loadeddata", done, { once: true }));
    if (stream !== current) return; // switched off before its first frame
    const frame = await grabFrame(video, 1080, 0.92);
    stopLive();
    setPhoto(new File([frame], "camera.jpg", { type: "image/jpeg" }));
  }

  // -- photo and labels as an image ----------------------------------------------------------------------------------------

  const IMAGE_WIDTH = 800;
  const ROW_HEIGHT = 64;
  const MARGIN = 40;

  async function saveImage() {
    const photo = query("#why .layers img");
    const rows = [...document.querySelectorAll("#classes .row")];
    if (!photo || !rows.length) return;
    await photo.decode();
    const scale = Math.min(IMAGE_WIDTH / photo.naturalWidth, IMAGE_WIDTH / photo.naturalHeight);
    const [width, height] = [photo.naturalWidth * scale, photo.naturalHeight * scale];
    const canvas = Object.assign(document.createElement("canvas"), {
      width: IMAGE_WIDTH,
      height: Math.round(height) + 120 + rows.length * ROW_HEIGHT + 50,
    });
    const context = canvas.getContext("2d");
    const font = getComputedStyle(document.body).fontFamily;
    const write = (text, y, style, color, space) => {
      context.font = `${style} ${font}`;
      context.fillStyle = color;
      let shown = text;
      while (context.measureText(shown).width > space && shown.length > 1) shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
      context.fillText(shown, MARGIN, y);
    };
    const inner = IMAGE_WIDTH - 2 * MARGIN;
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(photo, (IMAGE_WIDTH - width) / 2, 0, width, height);
    let y = height + 70;
    write(query("#classes h2").textContent, y, "600 40px", "#0f172a", inner);
    for (const row of rows) {
      y += ROW_HEIGHT;
      const score = row.querySelector(".score").textContent;
      write(row.querySelector(".name").firstChild.textContent.trim(), y, "26px", "#0f172a", inner - 100);
      context.textAlign = "right";
      context.fillText(score, IMAGE_WIDTH - MARGIN, y);
      context.textAlign = "left";
      context.fillStyle = "#e2e8f0";
      context.fillRect(MARGIN, y + 12, inner, 6);
      context.fillStyle = "#4f46e5";
      context.fillRect(MARGIN, y + 12, (inner * parseFloat(row.querySelector(".bar span").style.width)) / 100, 6);
    }
    write(`${query("#summary h2").textContent} · resnet_hub`, y + 66, "20px", "#475569", inner);
    const url = URL.createObjectURL(await new Promise((done) => canvas.toBlob(done, "image/png")));
    Object.assign(document.createElement("a"), { href: url, download: "photo-and-labels.png" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  // -- the page ------------------------------------------------------------------------------------------------------

  function noteClick({ target }) {
    wasCleared = Boolean(target.closest?.("#photo button") && query("#photo img"));
  }

  // Called some time after each prediction.
  function settle() {
    if (wasCleared && !query("#photo img")) query("#clear-photo").click(); // the labels are of the photo before
    else if (query("#other-model input")?.value) query("#compare-button").click(); // a comparison follows the photo
  }

  // Called after changes of the page.
  function notePhotos() {
    query(PHOTO_INPUT)?.toggleAttribute("multiple", true);
    if (query("#several-summary p, .toast-body.error")) delete query("#several-panel").dataset.state;
    if (stream && (!query("#live video")?.checkVisibility() || query("#photo img"))) stopLive();
  }

  document.addEventListener("change", choose, true);
  document.addEventListener("drop", drop, true);
  document.addEventListener("click", noteClick, true);
  document.addEventListener("dragover", allowDrop);
  document.addEventListener("paste", paste, true);
  document.addEventListener("visibilitychange", () => document.hidden && stopLive());
  Object.assign(resnetHub, { takePhoto, notePhotos, settle, startLive: () => startLive(), stopLive, switchCamera, keepFrame, saveImage });
})();
