// Resizes and crops as Pillow does, to the bit: two passes over bytes, with weights in fixed point.

const FRACTION_BITS = 22; // of a weight; a sum of weighted bytes then fits into 32 bits
const HALF = 1 << (FRACTION_BITS - 1);
const STRIP_ROWS = 256; // of the image that are in memory at a time

const FILTERS = {
  bilinear: { radius: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { radius: 2, weight: cubic },
};

/** The cubic convolution kernel with a = -0.5. */
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/**
 * Resizes and crops an image as the checkpoint's config says.
 *
 * @param {(left: number, top: number, width: number, height: number) => Uint8ClampedArray} read Returns a region of the
 *     image as RGBA bytes.
 * @param {number} width Of the image, in pixels.
 * @param {number} height Of the image, in pixels.
 * @param {object} config With image_size, resize_size, crop_mode, interpolation and in_channels.
 * @returns {Uint8ClampedArray} image_size rows of image_size pixels of in_channels bytes.
 */
export function resizeAndCrop(read, width, height, config) {
  const side = config.image_size;
  const [newWidth, newHeight] = computeResizedSize(width, height, config);
  const columns = computeTaps(width, newWidth, roundHalfToEven((newWidth - side) / 2), side, config.interpolation);
  const rows = computeTaps(height, newHeight, roundHalfToEven((newHeight - side) / 2), side, config.interpolation);
  const channels = config.in_channels;
  const [left, right] = computeExtent(columns);
  const [top, bottom] = computeExtent(rows);
  const stretched = new Uint8ClampedArray((bottom - top) * side * channels);
  for (let y = top; y < bottom; y += STRIP_ROWS) {
    const count = Math.min(STRIP_ROWS, bottom - y);
    const strip = read(left, y, right - left, count);
    const pixels = channels === 1 ? toGray(strip) : strip;
    resizeRows(pixels, left, right - left, columns, channels, stretched.subarray((y - top) * side * channels, (y - top + count) * side * channels));
  }
  return resizeColumns(stretched, side * channels, rows, top);
}

function computeResizedSize(width, height, config) {
  const short = config.resize_size;
  if (config.crop_mode === "squash") return [short, short];
  const long = Math.floor((short * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [short, long] : [long, short];
}

/** As Python's `round`. */
function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** For each of `count` output pixels from `first` on: the first input pixel that counts, and the weights from there. */
function computeTaps(oldLength, newLength, first, count, interpolation) {
  const scale = oldLength / newLength;
  if (interpolation === "nearest") return computeNearest(oldLength, scale, first, count);
  const { radius, weight } = FILTERS[interpolation];
  const stretch = Math.max(scale, 1);
  const support = radius * stretch;
  return Array.from({ length: count }, (_, index) => {
    const center = (first + index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(oldLength, Math.trunc(center + support + 0.5));
    const weights = new Float64Array(end - start);
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      weights[i] = weight((i + start - center + 0.5) * (1 / stretch));
      sum += weights[i];
    }
    return { start, weights: Int32Array.from(weights, (value) => toFixedPoint(sum === 0 ? value : value / sum)) };
  });
}

function computeNearest(oldLength, scale, first, count) {
  const taps = [];
  let position = scale * 0.5;
  for (let index = 0; index < first + count; index++) { // a sum, whose rounding errors are Pillow's
    const start = Math.min(oldLength - 1, Math.floor(position));
    if (index >= first) taps.push({ start, weights: Int32Array.of(1 << FRACTION_BITS) });
    position += scale;
  }
  return taps;
}

/** The input pixels that any of the output pixels needs: the first, and the one after the last. */
function computeExtent(taps) {
  const ends = taps.map(({ start, weights }) => start + weights.length);
  return [Math.min(...taps.map(({ start }) => start)), Math.max(...ends)];
}

function toFixedPoint(weight) {
  const scaled = weight * (1 << FRACTION_BITS);
  return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

function resizeRows(pixels, left, width, columns, channels, output) {
  const stride = channels === 1 ? 1 : 4; // bytes of a pixel
  for (let row = 0, target = 0; target < output.length; row += width * stride) {
    for (const { start, weights } of columns) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = HALF;
        for (let i = 0, source = row + (start - left) * stride + channel; i < weights.length; i++, source += stride) {
          sum += pixels[source] * weights[i];
        }
        output[target++] = sum >> FRACTION_BITS;
      }
    }
  }
}

function resizeColumns(pixels, rowLength, rows, top) {
  const output = new Uint8ClampedArray(rows.length * rowLength);
  let target = 0;
  for (const { start, weights } of rows) {
    const offset = (start - top) * rowLength;
    for (let x = 0; x < rowLength; x++) {
      let sum = HALF;
      for (let i = 0, source = offset + x; i < weights.length; i++, source += rowLength) sum += pixels[source] * weights[i];
      output[target++] = sum >> FRACTION_BITS;
    }
  }
  return output;
}

/** Luma of RGBA pixels, a byte each, by the weights of ITU-R 601-2 that Pillow takes. */
function toGray(pixels) {
  const gray = new Uint8ClampedArray(pixels.length / 4);
  for (let i = 0, source = 0; i < gray.length; i++, source += 4) {
    const [red, green, blue] = [pixels[source], pixels[source + 1], pixels[source + 2]];
    gray[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return gray;
}
