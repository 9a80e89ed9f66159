// The page: a photo from a file, the clipboard, a drop or the camera; the labels with their scores.

import { Classifier } from "./classifier.js";

const SHOWN = 5; // labels; the others can be unfolded
const CAMERA_PAUSE = 50; // milliseconds between two frames
const find = (id) => document.getElementById(id);

let photos = 0; // chosen so far: an older one that is still being classified is not shown
let stream = null;

const loading = Classifier.load((fraction) => (find("progress").value = fraction))
  .catch((error) => console.error(error))
  .finally(() => (find("progress").hidden = true));
getClassifier().then((classifier) => classifier && !photos && setStatus("Ready. Choose a photo."));

/** The classifier once it is loaded; if it cannot be, the status shows it. */
async function getClassifier() {
  const classifier = await loading;
  if (!classifier) setStatus("The model could not be loaded. Check the connection, then reload the page.", true);
  return classifier;
}

function setStatus(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

/** Shows and classifies a file. */
async function open(file) {
  if (!file) return;
  stopCamera();
  const number = ++photos;
  show([]);
  let image;
  try { // the pixels as they are stored, upright
    image = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    if (number === photos) setStatus(`This browser cannot read ${file.name || "the photo"}. Choose a JPEG or PNG file.`, true);
    return;
  }
  if (number !== photos) return image.close();
  showPreview(file);
  setStatus(find("progress").hidden ? "Classifying" : "Loading the model");
  try {
    const prediction = await (await getClassifier())?.classify(image, image.width, image.height);
    if (prediction && number === photos) show(prediction, true);
  } catch {
    if (number === photos) setStatus("The photo could not be classified. Reload the page and try again.", true);
  } finally {
    image.close();
  }
}

function showPreview(file) {
  const preview = find("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  find("hint").hidden = true;
}

/** Shows labels with their scores, best first; `isAnnounced` for those that a screen reader announces. */
function show(prediction, isAnnounced = false) {
  find("best").replaceChildren(...prediction.slice(0, SHOWN).map(createRow));
  find("others").replaceChildren(...prediction.slice(SHOWN).map(createRow));
  const isDoubtful = prediction.length > 0 && !prediction.isSure;
  find("doubt").hidden = isAnnounced || !isDoubtful; // of the camera: its labels are not announced
  find("more").hidden = prediction.length <= SHOWN;
  find("more").querySelector("summary").textContent = `${prediction.length - SHOWN} more labels`;
  if (!isAnnounced) return;
  setStatus(`${isDoubtful ? "Not sure: " : ""}${prediction[0].label}, ${formatPercent(prediction[0].score)}`);
  find("best").scrollIntoView({ block: "nearest" });
}

function createRow({ label, score }) {
  const [row, bar, name, percent] = ["li", "div", "span", "span"].map((tag) => document.createElement(tag));
  Object.assign(row.dataset, { label, score });
  bar.className = "bar";
  bar.style.width = `${100 * score}%`;
  name.textContent = label;
  percent.textContent = formatPercent(score);
  row.append(bar, name, percent);
  return row;
}

function formatPercent(score) {
  return `${(100 * score).toFixed(1)}%`;
}

// The camera

async function startCamera() {
  const number = ++photos;
  try {
    const settings = { video: { facingMode: "environment" }, audio: false };
    const started = await navigator.mediaDevices.getUserMedia(settings);
    if (number !== photos) return started.getTracks().forEach((track) => track.stop());
    stream = started;
  } catch {
    return setStatus("The camera cannot be used. Allow it in the browser's settings, or choose a photo.", true);
  }
  const video = find("video");
  video.srcObject = stream;
  await video.play();
  find("preview").hidden = find("hint").hidden = true;
  video.hidden = false;
  find("camera").setAttribute("aria-pressed", "true");
  setStatus(find("progress").hidden ? "Point the camera at something" : "Loading the model");
  try {
    const classifier = await getClassifier();
    while (classifier && number === photos) {
      if (!document.hidden && video.videoWidth) {
        const prediction = await classifier.classify(video, video.videoWidth, video.videoHeight);
        if (number === photos) show(prediction);
        if (number === photos) setStatus("The camera is on");
      }
      await new Promise((resolve) => setTimeout(resolve, CAMERA_PAUSE));
    }
  } catch {
    if (number === photos) setStatus("The photo could not be classified. Reload the page and try again.", true);
  }
}

function stopCamera() {
  if (!stream) return;
  photos++;
  stream.getTracks().forEach((track) => track.stop());
  stream = find("video").srcObject = null;
  find("video").hidden = true;
  find("hint").hidden = false;
  find("camera").setAttribute("aria-pressed", "false");
  setStatus("Ready. Choose a photo.");
}

find("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
document.addEventListener("visibilitychange", () => document.hidden && stopCamera());

// Files

find("file").addEventListener("change", ({ target }) => {
  open(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => open(clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    find("frame").classList.toggle("over", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });
}
