// Stored values to grey, as builder.scan.display does it (DICOM PS3.3 C.11.2): LINEAR, LINEAR_EXACT, SIGMOID and TABLE.
import { cutOf, isValid } from './volume.js'

// Value -> 0..1 under a window {center, width, function, table}.
export function shareOf(window) {
  const { center, width } = window
  if (window.function === 'TABLE') {
    const table = window.table
    const low = center - width / 2
    const step = width / Math.max(1, table.length - 1)
    return (value) => {
      const at = (value - low) / step
      if (at <= 0) return table[0]
      if (at >= table.length - 1) return table[table.length - 1]
      const before = Math.floor(at)
      return table[before] + (table[before + 1] - table[before]) * (at - before)
    }
  }
  if (window.function === 'SIGMOID') return (value) => 1 / (1 + Math.exp((-4 * (value - center)) / width))
  if (window.function === 'LINEAR' && width <= 1) return (value) => (value > center - 0.5 ? 1 : 0)
  const [low, high] =
    window.function === 'LINEAR'
      ? [center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2]
      : [center - width / 2, center + width / 2]
  const span = high - low
  return (value) => (span > 0 ? Math.min(1, Math.max(0, (value - low) / span)) : 0)
}

const grey = (byte) => (0xff000000 | (byte << 16) | (byte << 8) | byte) >>> 0
const BLACK = grey(0)

// Fills `image` (an ImageData of the cut's size) with one cut of the volume.
export class Painter {
  constructor(volume) {
    this.volume = volume
    const { header } = volume
    this.colour = volume.channels === 3
    this.inverse = header.photometric === 'MONOCHROME1'
    this.top = 2 ** header.bits - 1
  }

  use(window, inverted) {
    const key = JSON.stringify([window, inverted])
    if (key === this.key) return
    this.key = key
    const flip = inverted !== this.inverse
    if (this.colour) {
      this.flip = inverted
      return
    }
    const share = shareOf(window)
    const paint = (value) => {
      const byte = Math.round(255 * share(value))
      return grey(flip ? 255 - byte : byte)
    }
    const { dtype } = this.volume.header
    if (dtype === 'float32') {
      this.table = null
      this.paint = paint
      return
    }
    const signed = dtype === 'int16'
    const table = new Uint32Array(dtype === 'uint8' ? 256 : 65536)
    for (let k = 0; k < table.length; k++) table[k] = paint(signed && k > 32767 ? k - 65536 : k)
    this.table = table
  }

  fill(image, plane, index) {
    const { volume } = this
    const [columns, rows, start, across, down] = cutOf(volume, plane, index)
    const out = new Uint32Array(image.data.buffer)
    if (this.colour) this.fillColour(out, plane, index)
    else {
      const { pixels, channels } = volume
      const { table } = this
      // of several channels that are no colours the first is shown
      const skip = channels > 1 ? (voxel) => Math.floor(voxel / (volume.height * volume.width)) * (channels - 1) * volume.height * volume.width : null
      let k = 0
      for (let row = 0; row < rows; row++) {
        let voxel = start + row * down
        if (table && !skip) for (let column = 0; column < columns; column++, voxel += across) out[k++] = table[pixels[voxel] & 0xffff]
        else
          for (let column = 0; column < columns; column++, voxel += across) {
            const value = pixels[skip ? voxel + skip(voxel) : voxel]
            out[k++] = table ? table[value & 0xffff] : this.paint(value)
          }
      }
    }
    if (volume.valid) {
      let k = 0
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++, k++)
          if (!isValid(volume, start + row * down + column * across)) out[k] = BLACK
    }
  }

  fillColour(out, plane, index) {
    const { volume, flip } = this
    const size = volume.height * volume.width
    const [columns, rows, start, across, down] = cutOf(volume, plane, index)
    const scale = 255 / this.top
    let k = 0
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const voxel = start + row * down + column * across
        const at = Math.floor(voxel / size) * 3 * size + (voxel % size)
        let value = 0xff000000
        for (let c = 0; c < 3; c++) {
          const byte = Math.round(volume.pixels[at + c * size] * scale)
          value |= (flip ? 255 - byte : byte) << (8 * c)
        }
        out[k++] = value >>> 0
      }
    }
  }

  // The stored value at a voxel: a number, [r, g, b], or null for padding.
  at(slice, y, x) {
    const { volume } = this
    const size = volume.height * volume.width
    if (!isValid(volume, slice * size + y * volume.width + x)) return null
    const first = slice * volume.channels * size + y * volume.width + x
    return this.colour ? [0, 1, 2].map((c) => volume.pixels[first + c * size]) : volume.pixels[first]
  }
}
