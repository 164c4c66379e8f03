// Curves that grow while one looks at them. Plotly.react on the same element keeps zoom and hover; the data is whole each
// time (stateless), so a reload, a second tab or a reconnect shows everything.
//
// data: {series: [{id, label, color, dash, width, opacity, x, y}], marks: [{x, label}], height, log, x_title, y_title, view, summary}
//   color: a number = place in the theme's chart palette, or a CSS colour. view: a new value forgets the zoom; other
//   heights (another y_title, a logarithmic axis) forget that of the heights alone.
// state "range": [low, high] of x after a zoom, null when the whole is shown; sent once the hand rests.
import Plotly from 'plotly.js-basic-dist-min'
import { whenGone } from './lasting.js'

const REST_MS = 250
const LOOK_MS = 1000
// Streamlit (1.67, `componentDidUpdate` of its App) marks each change of its state and measures each drawing, to be read
// in a browser's tools; nobody clears them, and a page that is watched all night would keep 170,000. Its own measuring
// takes a mark that is gone with a shrug (`catch {}`).
const MARKS = ['notRunning', 'running', 'rerunRequested', 'stopRequested']
const MEASURE = 'script-run-cycle'
const CONFIG = {
  displaylogo: false,
  displayModeBar: 'hover',
  responsive: true,
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d', 'sendChartToCloud'],
}
const charts = new WeakMap()

// Plotly makes a CSS class of it
const safeId = (id) => String(id).replace(/[^A-Za-z0-9-]/g, (c) => `_${c.charCodeAt(0).toString(16)}`)
const escaped = (text) => String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

function themeOf(element) {
  const style = getComputedStyle(element)
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise
  return {
    text: of('--st-text-color', '#333'),
    background: of('--st-background-color', '#fff'),
    border: of('--st-border-color', '#ddd'),
    font: of('--st-font', 'sans-serif'),
    palette: of('--st-chart-categorical-colors', '#2456d6,#d1477a,#0e8a5f')
      .split(/,(?![^(]*\))/)
      .map((c) => c.trim()),
  }
}

const colourOf = (color, theme) =>
  typeof color === 'number' ? theme.palette[color % theme.palette.length] : color || theme.palette[0]

function tracesOf(data, theme) {
  return data.series.map((s) => ({
    uid: safeId(s.id),
    x: s.x,
    y: s.y,
    name: escaped(s.label),
    type: 'scatter',
    mode: s.x.length < 2 ? 'markers' : 'lines',
    line: { color: colourOf(s.color, theme), width: s.width ?? 2, dash: s.dash || 'solid' },
    marker: { color: colourOf(s.color, theme), size: 9, line: { color: theme.background, width: 2 } },
    opacity: s.opacity ?? 1,
    showlegend: s.legend ?? true,
    hoverinfo: s.legend === false ? 'skip' : 'all',
    connectgaps: false,
  }))
}

// Around a single value an axis would reach from 1 below to 1 above: of a share or a score that is mostly nothing.
function aroundOne(data) {
  let [low, high] = [Infinity, -Infinity]
  for (const { y } of data.series)
    for (const value of y) if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)]
  return !data.log && low === high && low >= 0 && low <= 1 ? { clipmin: -0.05, clipmax: 1.05 } : {}
}

// While curves grow, the axis along which they do goes on in steps of a tenth and less: then its labels stand still, which
// the eye likes, and Plotly, which remembers the size of each label at each place, has less to remember.
const endOf = (data) => data.series.reduce((most, { x }) => Math.max(most, x.at(-1) ?? -Infinity), -Infinity)

function roomAhead(chart) {
  const end = endOf(chart.data)
  const tenth = end / 10
  if (!(tenth > 0) || end <= chart.firstEnd) return {} // it does not grow: no room is left
  const ten = 10 ** Math.floor(Math.log10(tenth))
  const step = ten * (tenth >= 5 * ten ? 5 : tenth >= 2 * ten ? 2 : 1)
  const top = step * Math.ceil((1.01 * end) / step) // a hundredth more, for the half of a dot that stands at the end
  return { include: [top], clipmax: top } // no further, whatever a dot or a word at the end would like
}

function layoutOf(chart, theme) {
  const { data } = chart
  const font = { size: 12, color: theme.text, family: theme.font }
  const axis = {
    gridcolor: theme.border,
    linecolor: theme.border,
    zerolinecolor: theme.border,
    automargin: true,
    tickfont: font,
    exponentformat: 'power',
  }
  const marks = data.marks ?? []
  return {
    height: data.height,
    uirevision: data.view,
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { color: theme.text, family: theme.font, size: 13 },
    margin: { l: 52, r: 12, t: 28, b: 40 },
    hovermode: 'x unified',
    hoverlabel: { bgcolor: theme.background, bordercolor: theme.border, font: { color: theme.text, family: theme.font } },
    legend: { orientation: 'h', yref: 'container', y: 0, yanchor: 'bottom', x: 0, font }, // the buttons are above
    modebar: { bgcolor: theme.background, color: theme.border, activecolor: theme.palette[0] },
    xaxis: { ...axis, title: { text: escaped(data.x_title), font }, autorangeoptions: roomAhead(chart) },
    yaxis: { ...axis, title: { text: escaped(data.y_title), font }, type: data.log ? 'log' : 'linear', uirevision: `${data.view} ${data.y_title} ${data.log}`, autorangeoptions: aroundOne(data) },
    shapes: marks.map((m) => ({
      type: 'line',
      x0: m.x,
      x1: m.x,
      yref: 'paper',
      y0: 0,
      y1: 1,
      line: { color: theme.text, width: 1, dash: 'dot' },
      opacity: 0.5,
    })),
    annotations: marks.map((m) => ({
      x: m.x,
      yref: 'paper',
      y: 1, // above the plot: within it a curve may run along the top
      yanchor: 'bottom',
      xanchor: m.x > 0.6 * endOf(data) ? 'right' : 'left', // never beyond the end
      showarrow: false,
      text: escaped(m.label),
      font: { size: 11, color: theme.text },
    })),
  }
}

function draw(chart) {
  const theme = themeOf(chart.element)
  chart.drawn = JSON.stringify(theme)
  chart.element.setAttribute('role', 'img')
  chart.element.setAttribute('aria-label', chart.data.summary)
  const drawing = Plotly.react(chart.element, tracesOf(chart.data, theme), layoutOf(chart, theme), CONFIG)
  chart.element.dataset.points = chart.data.series.reduce((sum, s) => sum + s.x.length, 0)
  if (chart.listening) return
  chart.listening = true
  drawing.then(() => chart.element.on('plotly_relayout', (change) => rest(chart, change)))
}

// A zoom is told to Python once the hand rests: it may then send finer points for that range.
function rest(chart, change) {
  const low = change['xaxis.range[0]'] ?? change['xaxis.range']?.[0]
  const high = change['xaxis.range[1]'] ?? change['xaxis.range']?.[1]
  if (low === undefined && !change['xaxis.autorange']) return
  const range = low === undefined ? null : [Number(low), Number(high)]
  clearTimeout(chart.timer)
  chart.timer = setTimeout(() => {
    if (JSON.stringify(range) === JSON.stringify(chart.range)) return
    chart.range = range
    chart.tell('range', range)
  }, REST_MS)
}

export default function ({ parentElement, data, setStateValue }) {
  let chart = charts.get(parentElement)
  if (!chart) {
    // An element of its own for each mount: what an earlier one still has under way cannot meet this one's chart.
    const earlier = parentElement.querySelector('.scanloom-curves')
    const element = earlier.cloneNode(false)
    earlier.replaceWith(element)
    chart = { element, range: null, listening: false }
    chart.watch = setInterval(() => {
      if (chart.drawn && JSON.stringify(themeOf(element)) !== chart.drawn) draw(chart)
      for (const mark of MARKS) performance.clearMarks(mark)
      performance.clearMeasures(MEASURE)
    }, LOOK_MS)
    charts.set(parentElement, chart)
  }
  chart.tell = setStateValue
  const came = JSON.stringify(data)
  if (came !== chart.came) {
    if (data.view !== chart.data?.view || data.x_title !== chart.data.x_title) chart.firstEnd = endOf(data)
    chart.data = data
    draw(chart)
    chart.came = came
  }
  return whenGone(parentElement, () => {
    clearInterval(chart.watch)
    clearTimeout(chart.timer)
    charts.delete(parentElement)
    const { element } = chart
    // A drawing that is under way reads what a purge takes away, and ends with an event: let it end first.
    setTimeout(() => {
      Plotly.purge(element)
      element.emit = () => {}
    }, 3000)
  })
}
