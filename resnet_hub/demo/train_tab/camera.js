// Hold a class's button: frames of the camera become its photos.
if (!window.resnetHubCamera) {
  window.resnetHubCamera = true;
  const INTERVAL = 150; // milliseconds between two photos
  const MAX_PHOTOS = 60; // of one press
  const SIDE = 480; // pixels of the longer side
  const IDLE = 30000; // milliseconds until the camera is switched off
  let stream = null;
  let idle = 0;
  let recording = null; // {card, video, photos, timer}

  // Says at the button that was pressed that there is no camera.
  function explain(card) {
    for (const old of document.querySelectorAll(".record + [role=alert]")) old.remove();
    card?.querySelector(".record").after(document.querySelector("#no-camera p").cloneNode(true));
  }

  async function openCamera(card) {
    let video = card.querySelector("video.camera");
    if (!video) {
      video = Object.assign(document.createElement("video"), { className: "camera", muted: true, playsInline: true });
      card.querySelector(".record").after(video);
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

  function takePhoto(current) {
    const { video, photos } = current;
    if (!video.videoWidth || photos.length >= MAX_PHOTOS) return;
    const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    photos.push(new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9)));
    current.button.dataset.count = photos.length;
  }

  async function start(button) {
    if (recording) return;
    clearTimeout(idle);
    const card = button.closest(".class-card");
    const current = (recording = { button, card, photos: [], isHeld: true });
    try {
      current.video = await openCamera(card);
      explain(null);
    } catch {
      recording = null;
      explain(card);
      return;
    }
    if (!current.isHeld) return finish(current);
    button.classList.add("recording");
    takePhoto(current);
    current.timer = setInterval(() => takePhoto(current), INTERVAL);
  }

  function stop() {
    if (!recording) return;
    recording.isHeld = false;
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
