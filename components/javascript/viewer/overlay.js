// What lies over a scan: masks (one colour a structure) and heat maps, as pictures of a cut.
import { cutOf } from './volume.js'

// The same five colours as pages/kit/heat.py: lightness rises evenly, readable also without colour vision.
const STOPS = [
  [24, 15, 62],
  [120, 28, 109],
  [207, 68, 70],
  [251, 155, 6],
  [252, 255, 164],
]

const HEAT = new Uint32Array(256)
for (let k = 0; k < 256; k++) {
  const at = (k / 255) * (STOPS.length - 1)
  const low = Math.min(STOPS.length - 2, Math.floor(at))
  const [r, g, b] = STOPS[low].map((v, c) => Math.round(v + (STOPS[low + 1][c] - v) * (at - low)))
  HEAT[k] = ((k << 24) | (b << 16) | (g << 8) | r) >>> 0
}

const INSIDE = 0.45 // of the opacity; the outline is whole

function abgr(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16))
  return ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0
}

// Which cut of an overlay belongs to cut `index` of the scan; null where it has none there.
function matching(overlay, volume, scan, plane, index) {
  const of = [scan.slices, scan.height, scan.width]
  const own = [volume.slices, volume.height, volume.width]
  if (plane === 0 && overlay.slices) {
    const at = overlay.slices.indexOf(index)
    return at < 0 ? null : at
  }
  if (own[plane] === of[plane]) return index
  return Math.min(own[plane] - 1, Math.floor(((index + 0.5) * own[plane]) / of[plane]))
}

// An offscreen canvas with one cut of a mask or heat map, or null where there is nothing; drawn stretched over the scan.
export function pictureOf(overlay, volume, scan, plane, index, hidden) {
  if (plane > 0 && overlay.slices) return null // known on a few slices only
  const at = matching(overlay, volume, scan, plane, index)
  if (at === null) return null
  const [columns, rows, start, across, down] = cutOf(volume, plane, at)
  const image = new ImageData(columns, rows)
  const out = new Uint32Array(image.data.buffer)
  const { pixels } = volume
  let any = false
  if (overlay.kind === 'heat') {
    let k = 0
    for (let row = 0; row < rows; row++) {
      let voxel = start + row * down
      for (let column = 0; column < columns; column++, voxel += across) {
        out[k++] = HEAT[pixels[voxel]]
        any ||= pixels[voxel] > 0
      }
    }
  } else {
    const inside = new Uint32Array(256)
    const edge = new Uint32Array(256)
    for (let k = 1; k < 256; k++) {
      if (hidden.has(k)) continue
      const colour = overlay.colours[k - 1] ?? overlay.colours[(k - 1) % overlay.colours.length]
      inside[k] = abgr(colour, INSIDE)
      edge[k] = abgr(colour, 1)
    }
    let k = 0
    for (let row = 0; row < rows; row++) {
      let voxel = start + row * down
      for (let column = 0; column < columns; column++, voxel += across, k++) {
        const value = pixels[voxel]
        if (!value) continue
        any = true
        const border =
          column === 0 ||
          row === 0 ||
          column === columns - 1 ||
          row === rows - 1 ||
          pixels[voxel - across] !== value ||
          pixels[voxel + across] !== value ||
          pixels[voxel - down] !== value ||
          pixels[voxel + down] !== value
        out[k] = border ? edge[value] : inside[value]
      }
    }
  }
  if (!any) return null
  const canvas = document.createElement('canvas')
  canvas.width = columns
  canvas.height = rows
  canvas.getContext('2d').putImageData(image, 0, 0)
  return canvas
}

// The slices on which an overlay shows something, as a sorted list of numbers.
export function slicesOf(overlay, volume) {
  const size = volume.height * volume.width
  const found = []
  for (let s = 0; s < volume.slices; s++) {
    const end = (s + 1) * size
    for (let k = s * size; k < end; k++) {
      if (volume.pixels[k]) {
        found.push(overlay.slices ? overlay.slices[s] : s)
        break
      }
    }
  }
  return found
}

// The value of an overlay at a place of the scan.
export function valueAt(overlay, volume, scan, slice, y, x) {
  const s = matching(overlay, volume, scan, 0, slice)
  if (s === null) return 0
  const row = Math.min(volume.height - 1, Math.floor(((y + 0.5) * volume.height) / scan.height))
  const column = Math.min(volume.width - 1, Math.floor(((x + 0.5) * volume.width) / scan.width))
  return volume.pixels[(s * volume.height + row) * volume.width + column]
}
