// Hold a class's button: frames of the camera become its photos. And beside the classes: what the trained model sees.
if (!window.resnetHubCamera) {
  window.resnetHubCamera = true;
  const INTERVAL = 150; // milliseconds between two photos
  const MAX_PHOTOS = 60; // of one press
  const SIDE = 480; // pixels of the longer side
  const IDLE = 30000; // milliseconds until the camera is switched off
  const PREVIEW_INTERVAL = 100; // milliseconds between two predictions
  let stream = null;
  let idle = 0;
  let recording = null; // {card, video, photos, timer}

  // Says at the button that was pressed that there is no camera.
  function explain(button) {
    for (const old of document.querySelectorAll("button + [role=alert]")) old.remove();
    button?.after(document.querySelector("#no-camera p").cloneNode(true));
  }

  async function openCamera(button) {
    let video = button.parentElement.querySelector("video.camera");
    if (!video) {
      video = Object.assign(document.createElement("video"), { className: "camera", muted: true, playsInline: true });
      button.after(video);
    }
    if (!stream?.active) {
      const wanted = { facingMode: "environment", width: { ideal: 640 } };
      stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    }
    for (const other of document.querySelectorAll("video.camera")) if (other !== video) other.remove();
    if (video.srcObject !== stream) video.srcObject = stream;
    await video.play();
    return video;
  }

  function closeCamera() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    for (const video of document.querySelectorAll("video.camera")) video.remove();
  }

  function encode(image, width, height) {
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
  }

  function takePhoto(current) {
    const { video, photos } = current;
    if (!video.videoWidth || photos.length >= MAX_PHOTOS) return;
    photos.push(encode(video, video.videoWidth, video.videoHeight));
    current.button.dataset.count = photos.length;
  }

  async function start(button) {
    if (recording) return;
    clearTimeout(idle);
    const card = button.closest(".class-card");
    const current = (recording = { button, card, photos: [], isPressed: true });
    try {
      current.video = await openCamera(button);
      explain(null);
    } catch {
      recording = null;
      explain(button);
      return;
    }
    if (!current.isPressed) return finish(current);
    button.classList.add("recording");
    takePhoto(current);
    current.timer = setInterval(() => takePhoto(current), INTERVAL);
  }

  function stop() {
    if (!recording) return;
    recording.isPressed = false;
    if (recording.timer) finish(recording);
  }

  async function finish(current) {
    recording = null;
    clearInterval(current.timer);
    current.button.classList.remove("recording");
    idle = setTimeout(closeCamera, IDLE);
    const photos = await Promise.all(current.photos);
    delete current.button.dataset.count;
    const input = current.card.querySelector("input[type=file]");
    if (!photos.length || !input) return;
    const files = new DataTransfer();
    photos.forEach((photo, index) => {
      files.items.add(new File([photo], `camera-${Date.now()}-${index}.jpg`, { type: "image/jpeg" }));
    });
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // -- the trained model ---------------------------------------------------------------------------------------------

  async function showLabels(preview, photo) {
    const address = `gradio_api/live?model=${preview.dataset.model}`;
    const response = await fetch(address, { method: "POST", body: photo }).catch(() => null);
    const html = response && (response.ok || response.status === 400) ? await response.text() : "";
    if (html) preview.querySelector(".labels").innerHTML = html; // of our server, which escapes labels
  }

  async function previewCamera(button) {
    const preview = button.closest(".preview");
    if (button.getAttribute("aria-pressed") === "true") return closeCamera();
    clearTimeout(idle);
    try {
      const video = await openCamera(button);
      explain(null);
      preview.querySelector("img").hidden = true;
      button.setAttribute("aria-pressed", "true");
      while (stream?.active && video.isConnected && video.checkVisibility()) {
        if (video.videoWidth) await showLabels(preview, await encode(video, video.videoWidth, video.videoHeight));
        await new Promise((done) => setTimeout(done, PREVIEW_INTERVAL));
      }
      if (video.isConnected) closeCamera();
    } catch {
      explain(button);
    }
    button.setAttribute("aria-pressed", "false");
  }

  async function previewPhoto(input) {
    const [file] = input.files;
    if (!file) return;
    closeCamera();
    const preview = input.closest(".preview"), shown = preview.querySelector("img");
    try {
      const image = await createImageBitmap(file);
      const photo = await encode(image, image.width, image.height);
      shown.src = URL.createObjectURL(photo);
      shown.hidden = false;
      await showLabels(preview, photo);
    } catch {
      preview.querySelector(".labels").textContent = input.dataset.refused;
    }
    input.value = "";
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-preview-camera]");
    if (button) previewCamera(button);
  });
  document.addEventListener("change", ({ target }) => target.matches?.(".preview input") && previewPhoto(target));

  const find = (event) => event.target.closest?.(".record");
  const isKey = (event) => event.key === " " || event.key === "Enter";
  document.addEventListener("pointerdown", (event) => find(event) && event.button === 0 && start(find(event)));
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, stop);
  addEventListener("blur", stop);
  document.addEventListener("keydown", (event) => {
    if (!find(event) || !isKey(event)) return;
    event.preventDefault();
    if (!event.repeat) start(find(event));
  });
  document.addEventListener("keyup", (event) => isKey(event) && stop());
  document.addEventListener("contextmenu", (event) => find(event) && event.preventDefault()); // of a long touch
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return;
    stop();
    closeCamera();
  });
}
