// A small drawing and a hue for each kind of layer.
import React from 'react'

const KINDS = [
  ['convolution', 255, 'M2.5 2.5h11v11h-11zM2.5 6.2h11M2.5 9.8h11M6.2 2.5v11M9.8 2.5v11'],
  ['pooling', 195, 'M2.5 3h11l-4 5v5l-3-1.5V8z'],
  ['normalization', 300, 'M1.8 12.5c3.2 0 3.4-9 6.2-9s3 9 6.2 9'],
  ['activation', 55, 'M2 12h5.5L13.5 3.5M2 8.5'],
  ['regularization', 330, 'M4 4h.01M8 4h.01M12 4h.01M4 8h.01M12 8h.01M8 12h.01M4 12h.01M12 12h.01'],
  ['shape', 220, 'M3 3h10M3 6.3h10M3 9.6h10M3 13h10'],
  ['linear', 350, 'M4 3.5 12 6M4 3.5l8 6.5M4 8l8-2M4 8l8 4.5M4 12.5 12 6M4 12.5l8 0'],
  ['join', 90, 'M8 2.5v11M2.5 8h11'],
  ['block', 145, 'M3 3h4.5v4.5H3zM8.5 8.5H13V13H8.5zM7.5 5.2h3.2v3.3'],
  ['backbone', 125, 'M8 2.2 14 5.5 8 8.8 2 5.5zM2 8.3l6 3.3 6-3.3M2 11l6 3.2 6-3.2'],
  ['recurrent', 165, 'M12.5 8a4.5 4.5 0 1 1-1.4-3.2M11.5 2v3.2H8.3'],
  ['attention', 25, 'M8 2v12M2.8 5l10.4 6M13.2 5 2.8 11'],
  ['decoder', 175, 'M2.5 13.5V9h3v4.5M6.5 13.5V6h3v7.5M10.5 13.5v-11h3v11'],
  ['head', 5, 'M8 2.5a5.5 5.5 0 1 0 .01 0M8 6a2 2 0 1 0 .01 0'],
  ['series', 235, 'M3 5.5h7.5V13H3zM5.5 5.5V3H13v7.5h-2.5'],
]
const ALIKE = [
  [/conv|resampl|upsampl/, 'convolution'],
  [/pool/, 'pooling'],
  [/norm/, 'normalization'],
  [/activ/, 'activation'],
  [/regular|dropout/, 'regularization'],
  [/recur|rnn|sequence|time/, 'recurrent'],
  [/attent|transform/, 'attention'],
  [/decod/, 'decoder'],
  [/head|output/, 'head'],
  [/serie|slice/, 'series'],
  [/back/, 'backbone'],
  [/join|merge/, 'join'],
  [/linear|dense/, 'linear'],
  [/block|resid/, 'block'],
  [/shape/, 'shape'],
]

const known = new Map()

// {hue, path} of a group of layers, by its name.
export function kindOf(group = '') {
  if (!known.has(group)) {
    const name = ALIKE.find(([words]) => words.test(group.toLowerCase()))?.[1]
    const number = [...group].reduce((sum, c) => sum * 31 + c.charCodeAt(0), 7)
    const [, hue, path] = KINDS.find(([kind]) => kind === name) ?? ['', Math.abs(number) % 360, KINDS[8][2]]
    known.set(group, { hue, path })
  }
  return known.get(group)
}

export function Icon({ path }) {
  return (
    <svg className="nw-icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={path} />
    </svg>
  )
}

export const SIGNS = {
  undo: 'M6 3.5 2.5 7 6 10.5M2.5 7H10a3.5 3.5 0 0 1 0 7H7',
  redo: 'M10 3.5 13.5 7 10 10.5M13.5 7H6a3.5 3.5 0 0 0 0 7h3',
  tidy: 'M5 2.5h6v3H5zM2 10.5h5v3H2zM9 10.5h5v3H9zM8 5.5V8M4.5 10.5V8h7v2.5',
  fit: 'M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10',
  fold: 'M2.5 2.5h11v11h-11zM5.5 8h5',
  unfold: 'M2.5 2.5h11v11h-11zM5.5 8h5M8 5.5v5',
  keys: 'M1.5 4h13v8.5h-13zM4 6.5h.01M7 6.5h.01M10 6.5h.01M4.5 10h7',
  layers: 'M8 3v10M3 8h10',
  plus: 'M8 3v10M3 8h10',
  minus: 'M3 8h10',
  wrong: 'M8 4.5v4.2M8 11.3h.01M8 1.8 15 14H1z',
  scan: 'M2.5 5V2.5H5M11 2.5h2.5V5M13.5 11v2.5H11M5 13.5H2.5V11M2.5 8h11',
  close: 'M4 4l8 8M12 4l-8 8',
}

export function Sign({ name }) {
  return <Icon path={SIGNS[name]} />
}
