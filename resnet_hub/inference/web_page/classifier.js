// The model: fetches ONNX Runtime Web and the network, and computes the score of each label.

import { resizeAndCrop } from "./resize.js";

/** Fetches a file and calls `onBytes` with the number of bytes of each chunk; `integrity` is checked by the browser. */
async function fetchBytes(url, integrity, onBytes) {
  const response = await fetch(url, integrity ? { integrity } : {});
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const chunks = [];
  for (let reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(chunks).arrayBuffer());
    chunks.push(value);
    onBytes(value.length);
  }
}

export class Classifier {
  #config;
  #runtime;
  #session;

  constructor(config, runtime, session) {
    this.#config = config;
    this.#runtime = runtime;
    this.#session = session;
  }

  /**
   * Loads the model that model.json describes.
   *
   * @param {(fraction: number) => void} onProgress Called with the fraction of all bytes that has arrived.
   */
  static async load(onProgress) {
    const config = await (await fetch("model.json")).json();
    let received = 0;
    const count = (bytes) => onProgress(Math.min(1, (received += bytes) / config.bytes));
    const { script, binary } = config.runtime;
    const [code, wasmBinary, network] = await Promise.all([
      fetchBytes(script.url, script.integrity, count),
      fetchBytes(binary.url, binary.integrity, count),
      fetchBytes("model.onnx", "", count),
    ]);
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" })); // the code that was checked
    const runtime = await import(address);
    URL.revokeObjectURL(address);
    runtime.env.wasm.wasmBinary = wasmBinary;
    runtime.env.wasm.numThreads = 1; // more need headers that a static server does not send
    const session = await runtime.InferenceSession.create(network, { executionProviders: ["wasm"] });
    return new Classifier(config, runtime, session);
  }

  /**
   * Computes the score of each label, best first.
   *
   * @param {CanvasImageSource} image
   * @param {number} width In pixels.
   * @param {number} height In pixels.
   * @returns {Promise<{label: string, score: number}[]>} With `isSure`: whether the best score reaches the threshold.
   */
  async classify(image, width, height) {
    const { image_size: side, in_channels: channels, labels, threshold } = this.#config;
    const pixels = resizeAndCrop(createReader(image), width, height, this.#config);
    const input = new this.#runtime.Tensor("float32", this.#normalize(pixels), [1, channels, side, side]);
    const { logits } = await this.#session.run({ pixel_values: input });
    const scores = softmax(logits.data);
    const ranked = labels.map((label, index) => ({ label, score: scores[index] })).sort((a, b) => b.score - a.score);
    return Object.assign(ranked, { isSure: ranked[0].score >= threshold });
  }

  /** From interleaved bytes to planes of floats. */
  #normalize(pixels) {
    const { in_channels: channels, mean, std } = this.#config;
    const values = new Float32Array(pixels.length);
    const plane = pixels.length / channels;
    for (let channel = 0; channel < channels; channel++) {
      for (let i = 0; i < plane; i++) {
        values[channel * plane + i] = (pixels[i * channels + channel] / 255 - mean[channel]) / std[channel];
      }
    }
    return values;
  }
}

/** Returns a function that reads a region of an image as RGBA bytes, blended over white where it is transparent. */
function createReader(image) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return (left, top, width, height) => {
    canvas.width = width;
    canvas.height = height;
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(image, left, top, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
