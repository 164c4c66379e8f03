// Where each layer stands and how each wire runs. Reads top to bottom, then on in the next column, like a newspaper.
//
// Ranks are made without the skips (wires that jump over layers of a longer way), by dagre where the network branches; they
// are parted into columns; skips run in lanes beside a column, those between columns above all of them.
import dagre from '@dagrejs/dagre'
import { INPUT, base, below } from './graph.js'

export const WIDTH = 196
export const HEIGHT = 52
const WRONG = 60 // a sentence below the settings
const REPAIR = 30 // and its button, of one line or two
const LONG = 32
const GAP = 36 // between two ranks: the shape of what flows stands in it
const BESIDE = 40
const LANE = 12
const GUTTER = 60
const COLUMNS = [9, 12, 15, 18, 24, 32, 48]
const ASPECT = 1.25

export const heightOf = (item) =>
  HEIGHT + (item.wrong ? WRONG + (item.wrong.repair ? REPAIR + (item.wrong.repair.length > LONG ? 15 : 0) : 0) : 0)

// What is drawn: layers, and closed blocks in place of theirs. [{id, node | block, feeds: [{from, tap, ref, target}]}]
export function visible(graph) {
  const closed = new Map()
  for (const block of graph.places.blocks)
    if (block.closed && isWhole(graph, block.ids)) for (const id of block.ids) closed.set(id, block)
  const items = [{ id: INPUT, feeds: [] }]
  const made = new Map()
  for (const node of graph.nodes) {
    const block = closed.get(node.id)
    let item
    if (!block) {
      item = { id: node.id, node, wrong: node.wrong, feeds: [] }
      items.push(item)
    } else if (made.has(block.id)) {
      item = made.get(block.id)
    } else {
      item = { id: block.id, block, layers: [], feeds: [] }
      made.set(block.id, item)
      items.push(item)
    }
    if (block) {
      item.layers.push(node)
      if (node.wrong && !item.wrong) item.wrong = { ...node.wrong, words: `${node.id}: ${node.wrong.words}` }
    }
    for (const ref of node.feeds) {
      const from = closed.get(base(ref))?.id ?? base(ref)
      const tap = closed.has(base(ref)) ? '' : (ref.split(':')[1] ?? '')
      if (from !== item.id && !item.feeds.some((f) => f.from === from && f.tap === tap))
        item.feeds.push({ from, tap, ref, target: node.id })
    }
  }
  return items
}

// No way leads out of these layers and back in: they can be drawn as one.
export function isWhole(graph, ids) {
  const inside = new Set(ids)
  const out = graph.nodes.filter((n) => !inside.has(n.id) && n.feeds.some((f) => inside.has(base(f))))
  const seen = new Set(out.map((n) => n.id))
  for (const node of out) for (const id of below(graph, node.id)) seen.add(id)
  return !ids.some((id) => seen.has(id))
}

// {at: Map id -> {x, y, width, height}, routes: Map wire id -> {points, kind, lane}} for these items.
export function arrange(items, places) {
  const islands = apart(items, places)
  const main = items.filter((i) => !islands.has(i.id))
  const { at, routes } = flow(main)
  const groups = new Map()
  for (const item of items)
    if (islands.has(item.id)) groups.set(islands.get(item.id), [...(groups.get(islands.get(item.id)) ?? []), item])
  for (const [head, members] of groups) {
    const own = flow(members)
    const from = own.at.get(head)
    const [x, y] = places.loose[head]
    for (const [id, box] of own.at) at.set(id, { ...box, x: box.x - from.x + x, y: box.y - from.y + y, column: head })
    for (const [id, route] of own.routes)
      routes.set(id, { ...route, points: route.points?.map(([px, py]) => [px - from.x + x, py - from.y + y]) })
  }
  for (const item of items)
    for (const feed of item.feeds) {
      const id = wireId(feed, item.id)
      if (!routes.has(id)) routes.set(id, { kind: 'free' })
    }
  return { at, routes }
}

export const wireId = (feed, target) => `${feed.from}${feed.tap ? `:${feed.tap}` : ''}>${target}`

// Layers that nothing feeds and that lie where they were dropped, with all that only they feed: id -> head.
function apart(items, places) {
  const found = new Map()
  const ids = new Set(items.map((i) => i.id))
  for (const item of items) {
    if (item.id === INPUT) continue
    const feeds = item.feeds.filter((f) => ids.has(f.from))
    if (!feeds.length) {
      if (places.loose[item.id]) found.set(item.id, item.id)
    } else if (feeds.every((f) => found.has(f.from))) found.set(item.id, found.get(feeds[0].from))
  }
  return found
}

// The wires that jump over layers: their ends are joined by a longer way, too.
function skips(items) {
  const reach = new Map() // id -> ids that lead to it
  const found = new Set()
  for (const item of items) {
    const all = new Set()
    for (const feed of item.feeds) {
      all.add(feed.from)
      for (const id of reach.get(feed.from) ?? []) all.add(id)
    }
    if (item.feeds.length > 1)
      for (const feed of item.feeds)
        if (item.feeds.some((f) => f.from !== feed.from && reach.get(f.from)?.has(feed.from)))
          found.add(wireId(feed, item.id))
    reach.set(item.id, all)
  }
  return found
}

// The ranks from top to bottom, each [{item, x}] with x from the middle of the column, and the wires that are no skips.
//
// Most of a network is a chain, which needs no dagre. Where it branches, dagre lays out that part alone: from the layer that
// all ways leave to the one in which they meet again.
function ranked(items, known, jumps) {
  const straight = []
  items.forEach((item, k) => {
    const feeds = item.feeds.filter((f) => known.has(f.from))
    if (!feeds.length && k) straight.push([items[k - 1].id, item.id]) // not fed yet: it keeps its place in the list
    for (const feed of feeds) if (!jumps.has(wireId(feed, item.id))) straight.push([feed.from, item.id])
  })
  const place = new Map(items.map((item, k) => [item.id, k]))
  const covered = new Array(items.length + 1).fill(0) // how many wires pass beside an item
  const used = new Set(straight.map(([from]) => from))
  for (const [from, to] of straight) {
    covered[place.get(from) + 1] += 1
    covered[place.get(to)] -= 1
  }
  items.forEach((item, k) => {
    if (!used.has(item.id) && k + 1 < items.length) covered[k + 1] += 1 // an end of its own stands beside what follows
    if (!used.has(item.id) && k + 1 < items.length) covered[items.length] -= 1
  })
  const cuts = []
  for (let k = 0, beside = 0; k < items.length; k += 1) {
    beside += covered[k]
    if (!beside) cuts.push(k)
  }
  const ranks = []
  cuts.forEach((cut, number) => {
    ranks.push([{ item: items[cut], x: 0 }])
    const end = cuts[number + 1] ?? items.length
    if (end > cut + 1) ranks.push(...branched(items.slice(cut, Math.min(end + 1, items.length)), straight, end < items.length))
  })
  return { ranks, straight }
}

const kept = new Map()

// The ranks between the first of these items and the last (which is left out where `meets`).
function branched(items, straight, meets) {
  const inside = new Set(items.map((i) => i.id))
  const wires = straight.filter(([from, to]) => inside.has(from) && inside.has(to))
  const words = `${items.map((i) => `${i.id}:${heightOf(i)}`)}|${wires}|${meets}`
  let spots = kept.get(words)
  if (!spots) {
    const graph = new dagre.graphlib.Graph()
    graph.setGraph({ rankdir: 'TB', nodesep: BESIDE, ranksep: GAP })
    graph.setDefaultEdgeLabel(() => ({}))
    items.forEach((item) => graph.setNode(item.id, { width: WIDTH, height: heightOf(item) }))
    wires.forEach(([from, to]) => graph.setEdge(from, to, { weight: 4 }))
    dagre.layout(graph)
    spots = new Map(items.map((item) => [item.id, { x: graph.node(item.id).x, rank: graph.node(item.id).rank }]))
    if (kept.size > 60) kept.delete(kept.keys().next().value)
    kept.set(words, spots)
  }
  const inner = items.slice(1, meets ? -1 : undefined)
  const xs = inner.map((i) => spots.get(i.id).x)
  const middle = (Math.min(...xs) + Math.max(...xs)) / 2
  const rows = new Map()
  for (const item of inner) {
    const { x, rank } = spots.get(item.id)
    if (!rows.has(rank)) rows.set(rank, [])
    rows.get(rank).push({ item, x: x - middle })
  }
  return [...rows.keys()].sort((a, b) => a - b).map((rank) => rows.get(rank).sort((a, b) => a.x - b.x))
}

function flow(items) {
  const at = new Map()
  const routes = new Map()
  if (!items.length) return { at, routes }
  const known = new Map(items.map((i) => [i.id, i]))
  const jumps = skips(items)
  const { ranks, straight } = ranked(items, known, jumps)
  const rankOf = new Map(ranks.flatMap((rank, k) => rank.map(({ item }) => [item.id, k])))
  const crossing = new Array(ranks.length).fill(0)
  for (const [from, to] of straight) for (let k = rankOf.get(from); k < rankOf.get(to); k += 1) crossing[k] += 1

  // Columns: as few ranks each as keep the whole about as wide as it is high, parted where one wire crosses.
  const widths = ranks.map((r) => r.length * WIDTH + (r.length - 1) * BESIDE)
  const pitch = HEIGHT + GAP
  const wide = Math.max(...widths) + GUTTER
  const many =
    ranks.length <= 10 ? ranks.length : (COLUMNS.find((n) => (Math.ceil(ranks.length / n) * wide) / (n * pitch) < ASPECT) ?? 64)
  const columns = []
  for (let start = 0; start < ranks.length; ) {
    let end = Math.min(ranks.length, start + many)
    if (ranks.length - end <= 2) end = ranks.length
    if (end < ranks.length) {
      const near = [0, -1, 1, -2, 2].map((d) => end + d).filter((e) => e > start + 2 && e < ranks.length)
      const cost = (e) => crossing[e - 1] * 3 + Math.abs(e - end)
      end = near.reduce((best, e) => (cost(e) < cost(best) ? e : best), end)
    }
    columns.push({ start, end })
    start = end
  }
  const columnOf = (id) => columns.findIndex((c) => rankOf.get(id) < c.end)

  // Lanes right of each column for its skips, and above all columns for those between them.
  const inside = columns.map(() => [])
  const between = []
  for (const item of items)
    for (const feed of item.feeds) {
      if (!known.has(feed.from)) continue
      const [from, to] = [rankOf.get(feed.from), rankOf.get(item.id)]
      const [a, b] = [columnOf(feed.from), columnOf(item.id)]
      const id = wireId(feed, item.id)
      const wire = { id, feed, item, from, to, a, b }
      if (a === b && !jumps.has(id) && isFree(ranks.slice(from + 1, to), ranks[to].find((n) => n.item === item).x)) continue
      if (a !== b && b === a + 1 && from === columns[a].end - 1 && to === columns[b].start) continue
      if (a === b) inside[a].push(wire)
      else between.push(wire)
    }
  inside.forEach((wires) => lanes(wires, (w) => [w.from, w.to]))
  lanes(between, (w) => [w.a, w.b])

  // x of columns and y of ranks.
  let x = 0
  columns.forEach((column, k) => {
    const span = ranks.slice(column.start, column.end)
    const xs = span.flat().map((n) => n.x)
    const [low, high] = [Math.min(...xs) - WIDTH / 2, Math.max(...xs) + WIDTH / 2]
    const fast = span.every((r) => r.length === 1)
    column.x = x
    column.width = fast ? WIDTH : high - low
    let y = 0
    for (const rank of span) {
      const tall = Math.max(...rank.map(({ item }) => heightOf(item)))
      for (const { item, x: middle } of rank)
        at.set(item.id, {
          x: Math.round(fast ? x : x + middle - WIDTH / 2 - low),
          y: Math.round(y),
          width: WIDTH,
          height: heightOf(item),
          column: k,
        })
      y += tall + GAP
    }
    column.right = column.x + column.width
    const outs = between.filter((w) => w.a === k).length
    column.lanes = Math.max(0, ...inside[k].map((w) => w.lane + 1))
    x = column.right + GUTTER + (column.lanes + outs) * LANE + 18
  })

  // Routes.
  const ins = columns.map(() => 0)
  const outs = columns.map((c) => c.lanes)
  const sided = new Map() // how many skips already touch a side of a layer
  const side = (id, which) => {
    const n = sided.get(id + which) ?? 0
    sided.set(id + which, n + 1)
    return n * 9
  }
  for (const wire of inside.flat()) {
    const [s, t] = [at.get(wire.feed.from), at.get(wire.item.id)]
    const lane = columns[wire.a].right + 22 + wire.lane * LANE
    const [ys, yt] = [s.y + HEIGHT / 2 + 6 + side(wire.feed.from, 'out'), t.y + HEIGHT / 2 - 6 - side(wire.item.id, 'in')]
    const points = [[s.x + s.width, ys], [lane, ys], [lane, yt], [t.x + t.width, yt]]
    routes.set(wire.id, { kind: 'skip', lane: wire.lane, points })
  }
  for (const wire of between) {
    const [s, t] = [at.get(wire.feed.from), at.get(wire.item.id)]
    const out = columns[wire.a].right + 22 + outs[wire.a]++ * LANE
    const into = columns[wire.b].x - 16 - ins[wire.b]++ * LANE
    const top = -34 - wire.lane * LANE
    const [ys, yt] = [s.y + HEIGHT / 2 + 6 + side(wire.feed.from, 'out'), t.y + HEIGHT / 2 + side(wire.item.id, 'left')]
    const points = [[s.x + s.width, ys], [out, ys], [out, top], [into, top], [into, yt], [t.x, yt]]
    routes.set(wire.id, { kind: 'skip', lane: wire.lane + 3, points })
  }
  for (const item of items)
    for (const feed of item.feeds) {
      const id = wireId(feed, item.id)
      if (routes.has(id) || !known.has(feed.from)) continue
      const [a, b] = [columnOf(feed.from), columnOf(item.id)]
      if (a === b) {
        routes.set(id, { kind: 'down' })
        continue
      }
      const [s, t] = [at.get(feed.from), at.get(item.id)]
      const [xs, xt] = [s.x + s.width / 2, t.x + t.width / 2]
      const gutter = t.x - (t.x - columns[a].right - columns[a].lanes * LANE) / 2 + 8
      const points = [[xs, s.y + s.height], [xs, s.y + s.height + 22], [gutter, s.y + s.height + 22], [gutter, t.y - 22], [xt, t.y - 22], [xt, t.y]]
      routes.set(id, { kind: 'wrap', points })
    }
  return { at, routes, columns }
}

// No layer of these ranks stands above `x`.
const isFree = (ranks, x) => ranks.every((rank) => rank.every((n) => Math.abs(n.x - x) >= WIDTH))

// Gives each wire a lane that no overlapping one has; short ones keep near.
function lanes(wires, spanOf) {
  const taken = []
  for (const wire of [...wires].sort((a, b) => spanOf(a)[1] - spanOf(a)[0] - (spanOf(b)[1] - spanOf(b)[0]))) {
    const [low, high] = spanOf(wire)
    let lane = 0
    while (taken[lane]?.some(([l, h]) => low < h && l < high)) lane += 1
    ;(taken[lane] ??= []).push([low, high])
    wire.lane = lane
  }
}

// An SVG path along points with round corners.
export function rounded(points, radius = 9) {
  let path = `M${points[0][0]},${points[0][1]}`
  for (let k = 1; k < points.length - 1; k += 1) {
    const [[ax, ay], [bx, by], [cx, cy]] = [points[k - 1], points[k], points[k + 1]]
    const [before, after] = [Math.hypot(bx - ax, by - ay), Math.hypot(cx - bx, cy - by)]
    const r = Math.min(radius, before / 2, after / 2)
    if (!r) continue
    path += `L${bx - ((bx - ax) / before) * r},${by - ((by - ay) / before) * r}`
    path += `Q${bx},${by} ${bx + ((cx - bx) / after) * r},${by + ((cy - by) / after) * r}`
  }
  const [x, y] = points.at(-1)
  return `${path}L${x},${y}`
}
