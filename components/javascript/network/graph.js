// The network as a graph, and the edits of it: the browser's half of pages/kit/wiring.py, kept equal to it by
// tests/test_wiring.py. Pure functions of plain data, so that they run in node as well.
//
// graph: {nodes: [{id, name, feeds: [ref], ...what is shown}], places: {moved, loose, blocks}}, nodes in the document's order.
// ref: "input" (the scan), "conv2d_1", or "backbone_1:2" (a layer's second tap). catalog: {name: {title, inputs, most, ...}}.

export const INPUT = 'input'
export const NO_PLACES = { moved: {}, loose: {}, blocks: [] }

export class Refused extends Error {}

export const base = (ref) => ref.split(':')[0]

const has = (graph, ref) => base(ref) === INPUT || graph.nodes.some((n) => n.id === base(ref))
const titleOf = (graph, id, catalog) => {
  if (id === INPUT) return 'The scan'
  const node = graph.nodes.find((n) => n.id === id)
  return catalog[node?.name]?.title ?? node?.name ?? id
}
const most = (name, catalog) => catalog[name]?.most || Infinity

// All layers that `from` reaches along wires, `from` itself left out unless it lies in a cycle.
export function below(graph, from) {
  const next = new Map()
  for (const node of graph.nodes)
    for (const ref of node.feeds) {
      if (!next.has(base(ref))) next.set(base(ref), [])
      next.get(base(ref)).push(node.id)
    }
  const seen = new Set()
  const waiting = [...(next.get(from) ?? [])]
  while (waiting.length) {
    const id = waiting.pop()
    if (seen.has(id)) continue
    seen.add(id)
    waiting.push(...(next.get(id) ?? []))
  }
  return seen
}

// The nodes in an order in which each comes after what feeds it: as they stand where that is possible, the output last.
export function ordered(nodes) {
  const place = new Map(nodes.map((n, k) => [n.id, k]))
  const rooted = below({ nodes }, INPUT)
  const fed = new Set(nodes.flatMap((n) => n.feeds.map(base)))
  let last = nodes.at(-1)?.id
  if (last !== undefined && !rooted.has(last)) {
    const ends = nodes.filter((n) => rooted.has(n.id) && !fed.has(n.id))
    if (ends.length) last = ends.at(-1).id
  }
  const waits = new Map(nodes.map((n) => [n.id, new Set(n.feeds.map(base).filter((f) => place.has(f)))]))
  const left = new Set(nodes.map((n) => n.id))
  const rank = (id) => (id === last ? Infinity : place.get(id))
  const found = []
  while (left.size) {
    let best
    for (const id of left) if (!waits.get(id).size && (best === undefined || rank(id) < rank(best))) best = id
    if (best === undefined) for (const id of left) if (best === undefined || place.get(id) < place.get(best)) best = id
    left.delete(best)
    found.push(best)
    for (const set of waits.values()) set.delete(best)
  }
  return found.map((id) => nodes[place.get(id)])
}

// Why a wire from `source` to `target` cannot be, in words; "" where it can. `instead`: the wire it would replace.
export function refusal(graph, source, target, catalog, instead = null) {
  const from = base(source)
  const node = graph.nodes.find((n) => n.id === target)
  if (!has(graph, source) || (!node && target !== INPUT)) return 'This layer is gone: it was deleted meanwhile.'
  if (target === INPUT) return 'Nothing goes into the scan: it is where the network begins.'
  const title = titleOf(graph, target, catalog)
  if (from === target) return `${title} cannot feed itself.`
  if (below(graph, target).has(from))
    return `That would be a loop: ${titleOf(graph, from, catalog)} already gets what ${title} puts out.`
  const others = node.feeds.filter((f) => f !== instead)
  if (others.includes(source)) return `${title} already gets this.`
  const limit = most(node.name, catalog)
  if (others.length >= limit && limit > 1) return `${title} takes at most ${limit} inputs and has them.`
  if (others.length >= limit)
    return `${title} takes one input and has one. Join layers with Add or Concatenate, or drag the end of its wire.`
  const wanted = catalog[node.name]?.takes ?? []
  const layout = from === INPUT ? graph.layout : graph.nodes.find((n) => n.id === from)?.layout
  if (wanted.length && layout && !wanted.includes(layout))
    return `${title} takes ${wanted.map((w) => graph.layouts?.[w] ?? w).join(' or ')}; ${titleOf(graph, from, catalog)} gives ${graph.layouts?.[layout] ?? layout}.`
  return ''
}

const without = (record, ids) => Object.fromEntries(Object.entries(record).filter(([id]) => !ids.has(id)))

// The blocks without layers that are gone; one of fewer than two layers is none.
function pruned(places, nodes) {
  const ids = new Set(nodes.map((n) => n.id))
  const blocks = places.blocks.map((b) => ({ ...b, ids: b.ids.filter((i) => ids.has(i)) })).filter((b) => b.ids.length > 1)
  return blocks.length === places.blocks.length && blocks.every((b, k) => b.ids.length === places.blocks[k].ids.length)
    ? places
    : { ...places, blocks }
}

const EDITS = {
  add(graph, op, catalog) {
    if (graph.nodes.some((n) => n.id === op.id)) throw new Refused(`There already is a layer ${op.id}.`)
    const feeds = [...new Set(op.feeds ?? [])].filter((f) => has(graph, f)).slice(0, most(op.name, catalog))
    const at = Math.max(...feeds.map((f) => graph.nodes.findIndex((n) => n.id === base(f)) + 1), -1)
    const like = graph.nodes.find((n) => n.id === op.like)
    const fresh = { brief: catalog[op.name]?.brief ?? '', ...(like ? { brief: like.brief } : {}), ...(op.shown ?? {}) }
    const params = (like?.name === op.name ? like.params : op.params) ?? {} // it may be copied before Python has answered
    const node = { ...fresh, id: op.id, name: op.name, feeds, params }
    const leads = (start) => {
      const reached = below(graph, start).add(start)
      return feeds.some((f) => reached.has(base(f)))
    }
    const takes = (op.takes ?? []).filter(([target]) => !leads(target))
    const nodes = graph.nodes.map((n) => {
      const taken = takes.filter(([target]) => target === n.id).map(([, source]) => source)
      return taken.some((s) => n.feeds.includes(s))
        ? { ...n, feeds: [...new Set(n.feeds.map((f) => (taken.includes(f) ? op.id : f)))] }
        : n
    })
    nodes.splice(at >= 0 ? at : Math.max(0, nodes.length - 1), 0, node)
    const loose = op.at && !feeds.length ? { ...graph.places.loose, [op.id]: op.at } : graph.places.loose
    let blocks = graph.places.blocks
    if (op.block) blocks = blocks.map((b) => (b.id === op.block ? { ...b, ids: [...b.ids, op.id] } : b))
    return { ...graph, nodes: ordered(nodes), places: { ...graph.places, loose, blocks } }
  },

  remove(graph, op, catalog) {
    const gone = new Set(op.ids.filter((id) => graph.nodes.some((n) => n.id === id)))
    const cut = (op.wires ?? []).map(([s, t]) => `${s}>${t}`)
    let nodes = graph.nodes.map((n) => {
      const feeds = n.feeds.filter((f) => !cut.includes(`${f}>${n.id}`))
      return feeds.length === n.feeds.length ? n : { ...n, feeds }
    })
    for (const id of gone) {
      const heal = nodes.find((n) => n.id === id).feeds
      nodes = nodes
        .filter((n) => n.id !== id)
        .map((n) => {
          if (!n.feeds.some((f) => base(f) === id)) return n
          const feeds = [...new Set(n.feeds.flatMap((f) => (base(f) === id ? heal : [f])))]
          return { ...n, feeds: feeds.slice(0, most(n.name, catalog)) }
        })
    }
    const places = { ...graph.places, moved: without(graph.places.moved, gone), loose: without(graph.places.loose, gone) }
    return { ...graph, nodes: ordered(nodes), places: pruned(places, nodes) }
  },

  wire(graph, op, catalog) {
    const words = refusal(graph, op.source, op.target, catalog, op.instead)
    if (words) throw new Refused(words)
    const nodes = graph.nodes.map((n) => {
      if (n.id !== op.target) return n
      const at = n.feeds.indexOf(op.instead)
      const feeds = at < 0 ? [...n.feeds, op.source] : n.feeds.map((f, k) => (k === at ? op.source : f))
      return { ...n, feeds }
    })
    const fed = new Set(op.target in graph.places.loose ? [op.target] : [])
    const { moved, loose } = graph.places
    const places = { ...graph.places, moved: without(moved, fed), loose: without(loose, fed) }
    return { ...graph, nodes: ordered(nodes), places }
  },

  unwire(graph, op) {
    const nodes = graph.nodes.map((n) =>
      n.id === op.target ? { ...n, feeds: n.feeds.filter((f) => f !== op.source) } : n,
    )
    return { ...graph, nodes: ordered(nodes) }
  },

  place(graph, op) {
    const ids = new Set(graph.nodes.map((n) => n.id).concat(INPUT, graph.places.blocks.map((b) => b.id)))
    const known = Object.fromEntries(Object.entries(op.moved).filter(([id]) => ids.has(id)))
    return { ...graph, places: { ...graph.places, moved: { ...graph.places.moved, ...known } } }
  },

  tidy(graph) {
    return { ...graph, places: { ...graph.places, moved: {}, loose: {} } }
  },

  block(graph, op) {
    const ids = graph.nodes.map((n) => n.id).filter((id) => op.ids.includes(id))
    if (ids.length < 2) throw new Refused('A block needs at least two layers.')
    const blocks = graph.places.blocks
      .filter((b) => b.id !== op.id)
      .map((b) => ({ ...b, ids: b.ids.filter((i) => !ids.includes(i)) }))
      .filter((b) => b.ids.length > 1)
    const made = { id: op.id, name: op.name, ids, closed: Boolean(op.closed) }
    return { ...graph, places: { ...graph.places, blocks: [...blocks, made] } }
  },

  unblock(graph, op) {
    return { ...graph, places: { ...graph.places, blocks: graph.places.blocks.filter((b) => !op.ids.includes(b.id)) } }
  },

  close(graph, op) {
    const blocks = graph.places.blocks.map((b) => (op.ids.includes(b.id) ? { ...b, closed: op.closed } : b))
    return { ...graph, places: { ...graph.places, blocks } }
  },

  together(graph, op, catalog) {
    return op.ops.reduce((now, one) => edit(now, one, catalog), graph)
  },
}

// The graph after one edit; throws Refused with words.
export function edit(graph, op, catalog) {
  const act = EDITS[op.op]
  if (!act) throw new Refused('')
  return act(graph, op, catalog)
}

// -- what a gesture means --------------------------------------------------------------------------------------------

// An id for a new layer that neither the graph nor anything earlier in this tab had: conv2d -> conv2d_3.
export function freshId(graph, name, used) {
  const stem = name.slice(0, 32)
  const taken = new Set([...graph.nodes.map((n) => n.id), ...used])
  let number = 1
  while (taken.has(`${stem}_${number}`)) number += 1
  used.add(`${stem}_${number}`)
  return `${stem}_${number}`
}

// The edit that puts a new layer after `after`: between it and its next layer; a joining layer takes a skip with it.
export function appended(graph, name, after, id, catalog) {
  if (!after || !has(graph, after)) return { op: 'add', id, name, feeds: [] }
  const feeds = [after]
  const node = graph.nodes.find((n) => n.id === base(after))
  if ((catalog[name]?.inputs ?? 1) > 1) {
    const other = node?.feeds[0]
    if (other && other !== INPUT) feeds.push(other)
  }
  const next = graph.nodes.find((n) => n.feeds.includes(after))
  const takes = next ? [[next.id, after]] : []
  return { op: 'add', id, name, feeds, takes, block: blockOf(graph, after, next?.id) }
}

// The edit that puts a new layer into the wire from `source` to `target`.
export function inserted(graph, name, source, target, id) {
  return { op: 'add', id, name, feeds: [source], takes: [[target, source]], block: blockOf(graph, source, target) }
}

// The open block that a layer between these two belongs to: both are in it, or one is and the other does not exist.
function blockOf(graph, source, target) {
  const block = graph.places.blocks.find((b) => b.ids.includes(base(source)))
  return block && target && block.ids.includes(target) ? block.id : ''
}
