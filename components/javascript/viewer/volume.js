// A scan, a mask or a heat map as the server sends it (pages/kit/volumes.py): fetched once, whole, and kept for a while.

const MAGIC = 'SCANVOL1'
const MOST_KEPT_BYTES = 320e6
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, float32: Float32Array }
const kept = new Map() // id -> {volume} in the order of use

export class Refused extends Error {}

// Returns {header, pixels, valid, slices, channels, height, width, bytes}. `tell(done, total)` hears of the way there.
export async function fetchVolume(id, url, signal, tell) {
  const known = kept.get(id)
  if (known) {
    kept.delete(id)
    kept.set(id, known)
    return known
  }
  const volume = parsed(await bytesOf(url, signal, tell))
  kept.set(id, volume)
  let total = [...kept.values()].reduce((sum, v) => sum + v.bytes, 0)
  for (const [other, v] of kept) {
    if (total <= MOST_KEPT_BYTES || other === id) break
    kept.delete(other)
    total -= v.bytes
  }
  return volume
}

async function bytesOf(url, signal, tell) {
  let answer
  try {
    answer = await fetch(url, { signal, credentials: 'same-origin' })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Refused('The server could not be reached. It may have been stopped, or the connection broke off.')
  }
  if (!answer.ok) throw new Refused(await reasonOf(answer))
  const total = Number(answer.headers.get('content-length')) || 0
  const reader = answer.body.getReader()
  let bytes = new Uint8Array(total)
  let done = 0
  try {
    for (;;) {
      const { value, done: ended } = await reader.read()
      if (ended) break
      if (done + value.length > bytes.length) {
        const larger = new Uint8Array(Math.max(2 * bytes.length, done + value.length)) // a proxy has told no length
        larger.set(bytes.subarray(0, done))
        bytes = larger
      }
      bytes.set(value, done)
      done += value.length
      tell?.(done, total)
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Refused('The connection broke off before the scan had arrived.')
  }
  if (done < total) throw new Refused('The connection broke off before the scan had arrived.')
  return bytes.subarray(0, done)
}

async function reasonOf(answer) {
  if (answer.status === 401) return 'Your login has ended: reload the page and log in again.'
  try {
    return (await answer.json()).error || `The server answered ${answer.status}.`
  } catch {
    return `The server answered ${answer.status}.`
  }
}

function parsed(bytes) {
  const text = new TextDecoder()
  if (text.decode(bytes.subarray(0, 8)) !== MAGIC) throw new Refused('What the server sent is no scan.')
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true)
  const header = JSON.parse(text.decode(bytes.subarray(12, 12 + length)))
  const [slices, channels, height, width] = header.shape
  const Kind = ARRAYS[header.dtype]
  if (!Kind) throw new Refused(`The scan has values of the kind ${header.dtype}, which cannot be shown.`)
  const count = slices * channels * height * width
  const at = 12 + length
  const bits = header.valid ? Math.ceil((slices * height * width) / 8) : 0
  if (bytes.length !== at + count * Kind.BYTES_PER_ELEMENT + bits) {
    throw new Refused('The scan did not arrive completely.')
  }
  const pixels = new Kind(bytes.buffer, bytes.byteOffset + at, count)
  const valid = bits ? bytes.subarray(at + count * Kind.BYTES_PER_ELEMENT) : null
  return { header, pixels, valid, slices, channels, height, width, bytes: bytes.length }
}

// Whether a voxel is part of the picture and no padding; `voxel` counts within (S, H, W).
export const isValid = (volume, voxel) => !volume.valid || ((volume.valid[voxel >> 3] >> (7 - (voxel & 7))) & 1) === 1

// A cut through (S, H, W): [columns, rows, first voxel, step along a row, step down a column]. Planes: 0 = a slice as it is
// stored, 1 = along the rows through all slices (a fixed y), 2 = along the columns (a fixed x).
export function cutOf(volume, plane, index) {
  const { slices, height, width } = volume
  const size = height * width
  if (plane === 0) return [width, height, index * size, 1, width]
  if (plane === 1) return [width, slices, index * width, 1, size]
  return [height, slices, index, width, size]
}

// How many cuts there are along each plane's axis.
export const depthOf = (volume, plane) => [volume.slices, volume.height, volume.width][plane]
