// The canvas: what is seen of the desk, and what gestures and keys mean.
import React, { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react'
import { flushSync } from 'react-dom'
import { Background, MiniMap, ReactFlow, ReactFlowProvider, SelectionMode, useReactFlow, useStore } from '@xyflow/react'
import { Closed, Frame, Layer, Scan, Wire } from './cards.jsx'
import { Palette } from './Palette.jsx'
import { Sign, kindOf, Icon } from './icons.jsx'
import { INPUT, appended, base, inserted, refusal } from './graph.js'
import { HEIGHT, WIDTH, arrange, heightOf, isWhole, visible, wireId } from './layout.js'

const NODE_TYPES = { layer: Layer, scan: Scan, closed: Closed, frame: Frame }
const EDGE_TYPES = { wire: Wire }
const FAR = 0.62 // below this zoom a card shows only its title, in large letters
const MANY = ['Shift', 'Control', 'Meta']
const ZOOM = { minZoom: 0.12, maxZoom: 1.6 }
const TOAST_MS = 6000
const REST_MS = 140 // arrow keys run over layers; the form of the one on which they rest is drawn
const KEYS = [
  ['Arrow keys', 'from layer to layer'],
  ['Alt + arrows', 'move the chosen layers'],
  ['Enter', 'open the form; on a block: open it'],
  ['/', 'search for a layer to add'],
  ['C', 'connect: choose a target with the arrows, then Enter'],
  ['Delete', 'delete; the chain heals'],
  ['Ctrl + D', 'duplicate'],
  ['Ctrl + C, X, V', 'copy, cut, paste'],
  ['Ctrl + A', 'choose all'],
  ['Shift + click, Shift + drag', 'choose several'],
  ['Ctrl + Z, Ctrl + Y', 'undo, redo'],
  ['Ctrl + G', 'make a block of the chosen layers'],
  ['F', 'show the whole network'],
  ['Esc', 'let go'],
]

export function App({ desk }) {
  return (
    <ReactFlowProvider>
      <Editor desk={desk} />
    </ReactFlowProvider>
  )
}

// A function that stays the same object: React Flow draws every layer anew where one of its handlers has changed.
function useSteady(act) {
  const newest = useRef(act)
  newest.current = act
  return useCallback((...given) => newest.current(...given), [])
}

const sameSet = (a, b) => a.size === b.size && [...a].every((x) => b.has(x))

function Editor({ desk }) {
  const { graph, can, data, selected, waits } = useSyncExternalStore(desk.subscribe, desk.snapshot)
  const flow = useReactFlow()
  const root = useRef(null)
  const stage = useRef(null)
  const palette = useRef(null)
  const [picked, setPicked] = useState(() => new Set([selected]))
  const [wires, setWires] = useState(() => new Set())
  const [hovered, setHovered] = useState(null)
  const [dragged, setDragged] = useState(null) // Map id -> {x, y} while layers are dragged
  const [link, setLink] = useState(null) // connecting by keys: {source, target, words}
  const [armed, setArmed] = useState(null) // the wire into which the next layer of the palette goes
  const [toast, setToast] = useState(null)
  const [said, setSaid] = useState('')
  const [showsKeys, setShowsKeys] = useState(false)
  const [showsPalette, setShowsPalette] = useState(false)
  const far = useStore((state) => state.transform[2] < FAR)

  // -- what is drawn ---------------------------------------------------------------------------------------------------

  const items = useMemo(() => visible(graph), [graph])
  const signature = items.map((i) => `${i.id}:${heightOf(i)}:${i.feeds.map((f) => `${f.from}.${f.tap}`)}:${graph.places.loose[i.id] ?? ''}`).join('|')
  // eslint-disable-next-line react-hooks/exhaustive-deps -- the signature holds all that the layout depends on
  const { at, routes } = useMemo(() => arrange(items, graph.places), [signature])
  const byId = useMemo(() => new Map(items.map((i) => [i.id, i])), [items])
  const blockOf = useMemo(() => {
    const found = new Map()
    for (const item of items) if (item.block) for (const node of item.layers) found.set(node.id, item.id)
    return found
  }, [items])
  const shown = useCallback((id) => blockOf.get(id) ?? id, [blockOf])

  const placeOf = useCallback(
    (id) => {
      const box = at.get(id)
      const [dx, dy] = graph.places.moved[id] ?? [0, 0]
      return dragged?.get(id) ?? { x: box.x + dx, y: box.y + dy }
    },
    [at, graph.places.moved, dragged],
  )

  const say = useCallback((words) => {
    setToast(words ? { words } : null)
    if (words) setSaid(words)
  }, [])
  useEffect(() => {
    desk.onRefused = say
  }, [desk, say])
  useEffect(() => {
    if (!toast) return undefined
    const timer = setTimeout(() => setToast(null), TOAST_MS)
    return () => clearTimeout(timer)
  }, [toast])

  const act = useMemo(
    () => ({
      repair: (wrong) => desk.make({ op: 'repair', path: wrong.path, repair: wrong.repair }),
      open: (block) => desk.make({ op: 'close', ids: [block.id], closed: false }),
      close: (block) => desk.make({ op: 'close', ids: [block.id], closed: true }),
      ungroup: (block) => desk.make({ op: 'unblock', ids: [block.id] }),
      insert: (wire) => {
        setArmed({ source: wire.ref, target: wire.target })
        setShowsPalette(true)
        setTimeout(() => palette.current?.search(), 0)
      },
      cut: (wire) => desk.make({ op: 'unwire', source: wire.ref, target: wire.target }),
    }),
    [desk],
  )

  const kept = useRef(new Map())
  const nodes = useMemo(() => {
    const end = graph.nodes.at(-1)?.id
    const next = new Map()
    const list = items.map((item) => {
      const { x, y } = placeOf(item.id)
      const height = heightOf(item)
      const isPicked = picked.has(item.id)
      const aim = link?.target === item.id ? (link.words ? 'no' : 'yes') : link && shown(base(link.source)) === item.id ? 'from' : ''
      const last = kept.current.get(item.id)
      const isFocus = shown(selected) === item.id || (selected === null && item.id === INPUT)
      const isEnd = item.id === end && graph.nodes.length > 0
      const about = `${data.steps.now}` // titles come from the palette
      const part = item.node && desk.catalog[item.node.name]
      const same =
        last &&
        last.x === x &&
        last.y === y &&
        last.height === height &&
        last.isPicked === isPicked &&
        last.aim === aim &&
        last.isFocus === isFocus &&
        last.isEnd === isEnd &&
        (item.node ? last.item.node === item.node : item.block ? last.item.block === item.block && sameList(last.item.layers, item.layers) : last.scan === graph.scan + graph.shape)
      const entry = same ? { ...last, item } : null
      if (entry) {
        next.set(item.id, entry)
        return entry.node
      }
      const type = item.node ? 'layer' : item.block ? 'closed' : 'scan'
      const shape = item.node ? item.node.shape : item.block ? item.layers.at(-1).shape : graph.shape
      const title = item.node ? (part?.title ?? item.node.name) : item.block ? `Block ${item.block.name}` : 'Scan'
      const node = {
        id: item.id,
        type,
        position: { x, y },
        width: WIDTH,
        height,
        measured: { width: WIDTH, height },
        handles: handlesOf(item, height),
        selected: isPicked,
        focusable: isFocus,
        deletable: false,
        ariaLabel: [title, item.node?.id, item.node?.brief ?? graph.scan, shape ? `gives ${shape}` : 'gives nothing yet', item.wrong && `Problem: ${item.wrong.words}`].filter(Boolean).join(', '),
        domAttributes: { 'aria-roledescription': 'layer', 'aria-selected': isPicked, role: 'option', tabIndex: isFocus ? 0 : -1 },
        data: item.node
          ? { node: item.node, title, group: part?.group, isEnd, fed: item.feeds.length > 0, aim, onRepair: act.repair }
          : item.block
            ? {
                block: item.block,
                layers: item.layers,
                holds: holds(item.layers, desk.catalog),
                shape,
                wrong: item.wrong,
                aim,
                onOpen: act.open,
                onRepair: act.repair,
              }
            : { brief: graph.scan, shape: graph.shape, aim },
      }
      next.set(item.id, { node, item, x, y, height, isPicked, aim, isFocus, isEnd, scan: graph.scan + graph.shape, about })
      return node
    })
    kept.current = next
    return [...framesOf(graph, at, placeOf, act), ...list]
  }, [items, graph, placeOf, picked, link, selected, at, act, desk, shown, data.steps.now])

  const keptEdges = useRef(new Map())
  const edges = useMemo(() => {
    const list = []
    const next = new Map()
    for (const item of items)
      for (const feed of item.feeds) {
        if (!at.has(feed.from)) continue
        const id = wireId(feed, item.id)
        const route = routes.get(id)
        const isStill = !isOff(graph, dragged, feed.from) && !isOff(graph, dragged, item.id)
        const isNear = picked.has(feed.from) || picked.has(item.id)
        const taps = byId.get(feed.from)?.node?.taps?.length
        const handle = taps ? feed.tap || `${taps}` : null
        const words = [route.kind, route.lane, route.points, isStill, isNear, hovered === id, wires.has(id), handle, feed.ref, feed.target].join('|')
        let entry = keptEdges.current.get(id)
        if (entry?.words !== words) {
          const edge = {
            id,
            source: feed.from,
            target: item.id,
            sourceHandle: handle,
            type: 'wire',
            selected: wires.has(id),
            focusable: false,
            reconnectable: item.node && route.kind !== 'skip' ? 'target' : false,
            zIndex: route.kind === 'skip' ? 2 : 1,
            markerEnd: route.kind === 'down' ? undefined : `nw-arrow-${route.kind === 'skip' ? `${route.lane % 6}` : 'plain'}`,
            data: { route, isStill, isNear, isHovered: hovered === id, ref: feed.ref, target: feed.target, onInsert: act.insert, onCut: act.cut },
          }
          entry = { words, edge }
        }
        next.set(id, entry)
        list.push(entry.edge)
      }
    keptEdges.current = next
    return list
  }, [items, routes, at, graph, dragged, picked, wires, hovered, byId, act])

  // -- looking at it ---------------------------------------------------------------------------------------------------

  const fit = useCallback(
    (duration = 0) => {
      const box = stage.current?.getBoundingClientRect()
      if (!box?.width || !at.size) return
      const spots = [...at.keys()].map((id) => ({ ...at.get(id), ...placeOf(id) }))
      const [left, right] = [Math.min(...spots.map((s) => s.x)) - 8, Math.max(...spots.map((s) => s.x + s.width)) + 34]
      const [top, bottom] = [Math.min(...spots.map((s) => s.y), ...skyline(routes)), Math.max(...spots.map((s) => s.y + s.height)) + 26]
      const [wide, high] = [box.width - 40, box.height - 92]
      const zoom = Math.min(1, Math.max(0.25, Math.min(wide / (right - left), high / (bottom - top))))
      // A network too large to be seen whole begins at its beginning.
      const x = 20 + Math.max(0, (wide - (right - left) * zoom) / 2) - left * zoom
      const y = 52 + Math.max(0, Math.min(40, (high - (bottom - top) * zoom) / 2)) - top * zoom
      flow.setViewport({ x, y, zoom }, { duration })
    },
    [at, flow, placeOf, routes],
  )
  const fitSoon = useRef(fit)
  fitSoon.current = fit
  const reveal = useCallback(
    (id) => {
      const box = stage.current?.getBoundingClientRect()
      if (!box || !at.has(shown(id))) return
      const { x, y } = placeOf(shown(id))
      const { x: vx, y: vy, zoom } = flow.getViewport()
      const [left, top, right, bottom] = [x * zoom + vx, y * zoom + vy, (x + WIDTH) * zoom + vx, (y + HEIGHT + 34) * zoom + vy]
      const dx = left < 16 ? 16 - left : right > box.width - 16 ? box.width - 16 - right : 0
      const dy = top < 52 ? 52 - top : bottom > box.height - 40 ? box.height - 40 - bottom : 0
      if (dx || dy) flow.setViewport({ x: vx + dx, y: vy + dy, zoom }, { duration: 120 })
    },
    [at, flow, placeOf, shown],
  )
  const isFitted = useRef('')
  const [isThere, setIsThere] = useState(false)
  useEffect(() => {
    if (!isThere || isFitted.current === data.draft) return
    isFitted.current = data.draft
    fit()
  }, [isThere, data.draft, fit])
  // A network that was replaced as a whole is looked at as a whole.
  const before = useRef(graph)
  useEffect(() => {
    const known = new Set(before.current.nodes.map((n) => n.id))
    const stays = graph.nodes.filter((n) => known.has(n.id)).length
    if (before.current !== graph && (!graph.nodes.length ? known.size : stays < graph.nodes.length / 2 && graph.nodes.length > 2)) fit(150)
    before.current = graph
  }, [graph, fit])
  useEffect(() => {
    const look = () => document.visibilityState === 'visible' && desk.refresh()
    document.addEventListener('visibilitychange', look)
    return () => document.removeEventListener('visibilitychange', look)
  }, [desk])
  // What Python opened, or a new layer: it is picked and in sight.
  const follows = useRef(selected)
  useEffect(() => {
    if (follows.current === selected) return
    follows.current = selected
    if (selected === null) return
    const id = shown(selected)
    setPicked((now) => (now.has(id) ? now : new Set([id])))
    setWires((now) => (now.size ? new Set() : now))
    reveal(selected)
  }, [selected, reveal, shown])
  useEffect(() => {
    setPicked((now) => {
      const alive = new Set([...now].filter((id) => byId.has(id)))
      return alive.size === now.size ? now : alive
    })
  }, [byId])

  const focusOn = useCallback((id) => {
    // Only the chosen layer can take the focus, and it is chosen by the next drawing; keys are heard on the stage until then.
    const focus = () => stage.current?.querySelector(`.react-flow__node[data-id="${CSS.escape(id)}"]`)?.focus({ preventScroll: true })
    if (!stage.current?.contains(stage.current.getRootNode().activeElement)) stage.current?.focus({ preventScroll: true })
    setTimeout(focus, 0)
    requestAnimationFrame(focus)
  }, [])

  const pick = useCallback(
    (ids, primary, rest_ms = 0) => {
      setPicked((now) => (sameSet(now, ids) ? now : ids))
      setWires((now) => (now.size ? new Set() : now))
      const item = byId.get(primary)
      if (item) desk.select(item.block ? item.layers.at(-1).id : primary, rest_ms)
      follows.current = item?.block ? item.layers.at(-1).id : primary
    },
    [byId, desk],
  )

  // -- edits -----------------------------------------------------------------------------------------------------------

  const make = useCallback(
    (op, open) => {
      const words = desk.make(op, open)
      say(words)
      if (!words && open) {
        setPicked(new Set([open]))
        setWires(new Set())
      }
      return !words
    },
    [desk, say],
  )
  const add = useCallback(
    (part, where = {}) => {
      const id = desk.fresh(part.name)
      const now = desk.graph
      let op
      const wire = where.wire ?? armed
      if (wire && now.nodes.some((n) => n.id === wire.target && n.feeds.includes(wire.source)))
        op = inserted(now, part.name, wire.source, wire.target, id)
      else if (where.at && now.nodes.length) op = { op: 'add', id, name: part.name, feeds: [], at: where.at.map(Math.round) }
      else {
        const last = now.nodes.at(-1)
        const beside = last && ['class_scores'].includes(last.name) ? last.feeds[0] : last?.id
        op = appended(now, part.name, where.after ?? desk.seen.selected ?? beside ?? INPUT, id, desk.catalog)
      }
      setArmed(null)
      if (make(op, id)) setSaid(`${part.title} added${op.feeds.length ? ` after ${op.feeds[0] === INPUT ? 'the scan' : op.feeds[0]}` : ''}.`)
    },
    [armed, desk, make],
  )
  const layersOf = useCallback(
    (ids) => [...ids].flatMap((id) => (byId.get(id)?.block ? byId.get(id).layers.map((n) => n.id) : id === INPUT || !byId.has(id) ? [] : [id])),
    [byId],
  )
  const remove = useCallback(() => {
    const ids = layersOf(picked)
    const cut = edges.filter((e) => wires.has(e.id)).map((e) => [e.data.ref, e.data.target])
    if (!ids.length && !cut.length) {
      if (picked.has(INPUT)) say('The scan stays: it is where the network begins.')
      return
    }
    const gone = new Set(ids)
    const first = desk.graph.nodes.find((n) => gone.has(n.id))
    let next = first?.feeds.map(base).find((f) => !gone.has(f)) ?? INPUT
    if (!ids.length) next = desk.seen.selected
    if (make({ op: 'remove', ids, wires: cut }, next)) {
      setSaid(ids.length ? `${ids.length === 1 ? ids[0] : `${ids.length} layers`} deleted.` : 'Wire deleted.')
      focusOn(shown(next))
    }
  }, [desk, edges, focusOn, layersOf, make, picked, say, shown, wires])

  // Copies of layers with the wires among them; the first is fed by `after` and stands before what `after` fed.
  const copies = useCallback(
    (list, after) => {
      const now = desk.graph
      const names = new Map(list.map((n) => [n.id, desk.fresh(n.name)]))
      const ops = []
      const target = after && now.nodes.find((n) => n.feeds.includes(after))
      list.forEach((node) => {
        const feeds = node.feeds.filter((f) => names.has(base(f))).map((f) => f.replace(base(f), names.get(base(f))))
        const isHead = !feeds.length
        ops.push({
          op: 'add',
          id: names.get(node.id),
          name: node.name,
          feeds: isHead && after ? [after] : feeds,
          ...(node.params ? { params: node.params } : { like: node.id }),
          shown: { brief: node.brief },
        })
      })
      const last = ops.at(-1)
      const isChain = ops.filter((op) => op.feeds[0] === after).length === 1
      if (target && isChain) last.takes = [[target.id, after]]
      return { op: { op: 'together', ops, words: `${ops.length === 1 ? 'copy' : 'copy layers'}` }, ids: [...names.values()] }
    },
    [desk],
  )
  const place = useCallback(
    (list, after, words) => {
      if (!list.length) return
      const { op, ids } = copies(list, after)
      if (make(op, ids.at(-1))) {
        setPicked(new Set(ids))
        setSaid(words)
      }
    },
    [copies, make],
  )
  const duplicate = useCallback(() => {
    const ids = new Set(layersOf(picked))
    const list = desk.graph.nodes.filter((n) => ids.has(n.id)).map((n) => ({ ...n, params: undefined }))
    place(list, list.at(-1)?.id, `${list.length === 1 ? 'Layer' : 'Layers'} duplicated.`)
  }, [desk, layersOf, picked, place])
  const copy = useCallback(() => {
    const ids = new Set(layersOf(picked))
    const list = desk.graph.nodes.filter((n) => ids.has(n.id)).map(({ id, name, feeds, brief, params }) => ({ id, name, feeds, brief, params: params ?? {} }))
    if (!list.length) return false
    window.scanloomCopied = list
    setSaid(`${list.length === 1 ? '1 layer' : `${list.length} layers`} copied.`)
    return true
  }, [desk, layersOf, picked])
  const paste = useCallback(() => {
    if (window.scanloomCopied) place(window.scanloomCopied, desk.seen.selected ?? desk.graph.nodes.at(-1)?.id ?? INPUT, 'Pasted.')
  }, [desk, place])

  const connect = useCallback(
    (source, target, instead = null) => make(instead ? { op: 'wire', source, target, instead } : { op: 'wire', source, target }, base(target)),
    [make],
  )
  const bundle = useCallback(() => {
    const ids = layersOf(picked)
    if (ids.length < 2) return say('Choose two or more layers first: Shift + click, or Shift + drag around them.')
    if (!isWhole(desk.graph, ids)) return say('These layers are not next to each other: another one lies between them.')
    const number = desk.graph.places.blocks.length + 1
    const id = freshBlock(desk.graph)
    if (make({ op: 'block', id, name: `Block ${number}`, ids, closed: true })) setPicked(new Set([id]))
    return undefined
  }, [desk, layersOf, make, picked, say])
  const stages = useCallback(() => {
    const ops = stagesOf(desk.graph).map((stage) => ({ op: 'block', ...stage, closed: true }))
    if (!ops.length) return say('No stage of this network has enough layers to be worth a block.')
    if (make({ op: 'together', ops, words: 'blocks by stage' })) setTimeout(() => fitSoon.current(150), 30)
    return undefined
  }, [desk, make, say])
  const openAll = useCallback(() => {
    const ids = desk.graph.places.blocks.filter((b) => b.closed).map((b) => b.id)
    if (ids.length && make({ op: 'close', ids, closed: false })) setTimeout(() => fitSoon.current(150), 30)
  }, [desk, make])

  const wrongs = useMemo(() => items.filter((i) => i.wrong?.severity === 'error'), [items])
  const unfinished = items.find((i) => i.wrong?.severity === 'open')
  const nextWrong = () => show(wrongs[(wrongs.findIndex((i) => picked.has(i.id)) + 1) % wrongs.length])
  const show = (item) => {
    pick(new Set([item.id]), item.id)
    reveal(item.id)
    focusOn(item.id)
  }

  // -- pointer ---------------------------------------------------------------------------------------------------------

  const ghost = useRef(null)
  const over = useRef(null)
  const under = useCallback((event) => {
    const hits = root.current.getRootNode().elementsFromPoint(event.clientX, event.clientY)
    const node = hits.map((e) => e.closest?.('.react-flow__node:not(.react-flow__node-frame)')).find(Boolean)
    const edge = hits.map((e) => e.closest?.('.react-flow__edge')).find(Boolean)
    return { node, edge: node ? null : edge, isOn: hits.includes(stage.current) || hits.some((e) => stage.current.contains(e)) }
  }, [])
  const onDrag = useCallback(
    (part, event) => {
      const { node, edge, isOn } = under(event)
      const element = ghost.current
      const box = root.current.getBoundingClientRect()
      const { hue, path } = kindOf(part.group)
      element.hidden = false
      element.style.setProperty('--hue', hue)
      element.style.transform = `translate(${event.clientX - box.left}px,${event.clientY - box.top}px) translate(-50%,-50%)`
      element.querySelector('b').textContent = part.title
      element.querySelector('path').setAttribute('d', path)
      element.querySelector('i').textContent = edge ? 'into this wire' : node ? 'after this layer' : isOn ? '' : 'let go to cancel'
      const aim = edge ?? node ?? null
      if (over.current !== aim) {
        over.current?.classList.remove('nw-over')
        aim?.classList.add('nw-over')
        over.current = aim
      }
    },
    [under],
  )
  const onDrop = useCallback(
    (part, event) => {
      ghost.current.hidden = true
      over.current?.classList.remove('nw-over')
      over.current = null
      if (!part) return
      const { node, edge, isOn } = under(event)
      if (!isOn) return
      if (edge) {
        const wire = edges.find((e) => e.id === edge.dataset.id)
        add(part, { wire: { source: wire.data.ref, target: wire.data.target } })
      } else if (node) {
        const item = byId.get(node.dataset.id)
        add(part, { after: item?.block ? item.layers.at(-1).id : node.dataset.id })
      } else {
        const spot = flow.screenToFlowPosition({ x: event.clientX, y: event.clientY })
        add(part, { at: [spot.x - WIDTH / 2, spot.y - HEIGHT / 2] })
      }
    },
    [add, byId, edges, flow, under],
  )

  const onNodesChange = useCallback(
    (changes) => {
      const moves = changes.filter((c) => c.type === 'position' && c.position && c.dragging)
      if (moves.length) setDragged((now) => new Map([...(now ?? []), ...moves.map((c) => [c.id, c.position])]))
      const picks = changes.filter((c) => c.type === 'select')
      if (picks.length)
        setPicked((now) => {
          const next = new Set(now)
          for (const { id, selected: on } of picks) if (on) next.add(id)
          else next.delete(id)
          return sameSet(now, next) ? now : next
        })
    },
    [setDragged],
  )
  const onEdgesChange = useCallback((changes) => {
    const picks = changes.filter((c) => c.type === 'select')
    if (picks.length)
      setWires((now) => {
        const next = new Set(now)
        for (const { id, selected: on } of picks) if (on) next.add(id)
        else next.delete(id)
        return sameSet(now, next) ? now : next
      })
  }, [])
  const onDragStop = useCallback(
    (_event, _node, moved) => {
      const offsets = {}
      for (const { id, position } of moved) {
        const box = at.get(id)
        if (box && byId.has(id)) offsets[id] = [Math.round(position.x - box.x), Math.round(position.y - box.y)]
      }
      setDragged(null)
      const isReal = Object.entries(offsets).some(([id, [dx, dy]]) => {
        const [x, y] = graph.places.moved[id] ?? [0, 0]
        return x !== dx || y !== dy
      })
      if (isReal) desk.make({ op: 'place', moved: offsets })
    },
    [at, byId, desk, graph.places.moved],
  )
  const onConnectEnd = useCallback(
    (event, state) => {
      const from = state.fromNode?.id
      if (!from) return
      const point = 'changedTouches' in event ? event.changedTouches[0] : event
      const { node } = under(point)
      const hit = state.toNode?.id ?? node?.dataset.id
      if (!hit || hit === from) return
      const [source, target, handle] = state.fromHandle.type === 'source' ? [from, hit, state.fromHandle.id] : [hit, from, state.toHandle?.id]
      const ends = [byId.get(source), byId.get(target)]
      const ref = ends[0]?.block ? ends[0].layers.at(-1).id : tapped(ends[0], handle)
      connect(ref, ends[1]?.block ? ends[1].layers[0].id : target)
    },
    [byId, connect, under],
  )
  const rewired = useRef(false)
  const onReconnect = useCallback(
    (edge, now) => {
      rewired.current = true
      const target = byId.get(now.target)
      const to = target?.block ? target.layers[0].id : now.target
      if (to === edge.data.target) return
      const words = refusal(desk.graph, edge.data.ref, to, desk.catalog)
      if (words) {
        say(words)
        return
      }
      make({ op: 'together', words: 'rewire', ops: [{ op: 'unwire', source: edge.data.ref, target: edge.data.target }, { op: 'wire', source: edge.data.ref, target: to }] }, to)
    },
    [byId, desk, make, say],
  )

  // -- keys ------------------------------------------------------------------------------------------------------------

  const linkTo = useCallback(
    (source, target) => {
      const item = byId.get(target)
      const words = refusal(desk.graph, source, item?.block ? item.layers[0].id : target, desk.catalog)
      setLink({ source, target, words })
      setSaid(`Connect ${base(source) === INPUT ? 'the scan' : source} to ${target === INPUT ? 'the scan' : target}? ${words || 'Enter connects.'}`)
      reveal(target)
    },
    [byId, desk, reveal],
  )
  const neighbour = useCallback(
    (from, key) => {
      const here = placeOf(from)
      const ahead = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[key]
      const order = items.map((i) => i.id)
      if (ahead[1]) {
        // Along the wires first: down to what it feeds, up to what feeds it.
        const along = ahead[1] > 0 ? items.filter((i) => i.feeds.some((f) => f.from === from)) : (byId.get(from)?.feeds ?? []).map((f) => byId.get(f.from)).filter(Boolean)
        if (along.length) return (ahead[1] > 0 ? along[0] : along.reduce((a, b) => (order.indexOf(b.id) > order.indexOf(a.id) ? b : a))).id
        return order[Math.min(order.length - 1, Math.max(0, order.indexOf(from) + ahead[1]))]
      }
      let best = null
      for (const id of order) {
        const { x, y } = placeOf(id)
        const [dx, dy] = [(x - here.x) * ahead[0], Math.abs(y - here.y)]
        if (id === from || dx < WIDTH / 3) continue
        if (!best || dx + 2 * dy < best.far) best = { id, far: dx + 2 * dy }
      }
      return best?.id ?? from
    },
    [byId, items, placeOf],
  )
  const openForm = useCallback(() => {
    desk.flush()
    const wanted = desk.seen.selected ?? ''
    const name = desk.graph.nodes.find((n) => n.id === wanted)?.name
    const has = desk.catalog[name]?.settings
    const until = performance.now() + 30000 // a busy server may take its time; who has gone on meanwhile is left alone
    const typedInto = () => {
      let at = document.activeElement
      while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
      return at?.matches('input, textarea') ? at : null
    }
    const from = typedInto()
    const goneOn = () => (desk.seen.selected ?? '') !== wanted || (typedInto() ?? from) !== from
    const fields = 'input:not([type=hidden]):not([disabled]), [role=slider], [role=radio]'
    const look = () => {
      const form = document.querySelector(`.st-key-form-of-${CSS.escape(wanted)}`)
      const own = form?.querySelector(`[class*="st-key-network-${CSS.escape(wanted)}-params-"]`)
      const field = (has ? own : form)?.querySelector(fields)
      if (field) field.focus()
      else if (performance.now() < until && !goneOn()) setTimeout(look, 30)
    }
    look()
  }, [desk])

  const onKey = (event) => {
    if (event.target.closest?.('input, textarea, .nw-palette')) {
      // Typing stays typing; but undo reaches the network from the palette, too.
      if (!(event.target.tagName !== 'INPUT' && (event.ctrlKey || event.metaKey) && /^[zy]$/i.test(event.key))) {
        if (event.target.tagName !== 'INPUT' && event.key === '/') {
          palette.current?.search()
          event.preventDefault()
        }
        if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation()
        return
      }
    }
    const key = event.key
    const control = event.ctrlKey || event.metaKey
    const from = [...picked].find((id) => byId.has(id) && id === shown(selected)) ?? [...picked].at(-1) ?? INPUT
    let used = true
    if (link) {
      if (key === 'Escape') {
        setLink(null)
        setSaid('Not connected.')
      } else if (key === 'Enter') {
        if (link.words) say(link.words)
        else {
          const item = byId.get(link.target)
          const to = item?.block ? item.layers[0].id : link.target
          setLink(null)
          if (connect(link.source, to)) {
            setSaid(`Connected to ${to}.`)
            focusOn(shown(to))
          }
        }
      } else if (key.startsWith('Arrow') || key === 'Tab') {
        // In the order of the list: every layer can be reached, wherever it lies.
        const order = items.map((i) => i.id).filter((id) => id !== shown(base(link.source)))
        const step = key === 'ArrowUp' || key === 'ArrowLeft' || (key === 'Tab' && event.shiftKey) ? -1 : 1
        linkTo(link.source, order[(order.indexOf(link.target) + step + order.length) % order.length])
      } else if (/^[1-9]$/.test(key) && byId.get(shown(base(link.source)))?.node?.taps?.length >= Number(key)) {
        linkTo(`${base(link.source)}:${key}`, link.target)
      } else if (!['Shift', 'Control', 'Alt', 'Meta'].includes(key)) used = true
      if (used) {
        event.preventDefault()
        event.stopPropagation()
      }
      return
    }
    if (control && /^z$/i.test(key)) event.shiftKey ? redo() : undo()
    else if (control && /^y$/i.test(key)) redo()
    else if (control && /^d$/i.test(key)) duplicate()
    else if (control && /^c$/i.test(key)) used = copy()
    else if (control && /^x$/i.test(key)) {
      if (copy()) remove()
    } else if (control && /^v$/i.test(key)) paste()
    else if (control && /^a$/i.test(key)) setPicked(new Set(items.map((i) => i.id).filter((id) => id !== INPUT)))
    else if (control && /^g$/i.test(key)) bundle()
    else if (control) used = false
    else if (key === 'Delete' || key === 'Backspace') remove()
    else if (event.altKey && key.startsWith('Arrow')) {
      const [dx, dy] = { ArrowDown: [0, 10], ArrowUp: [0, -10], ArrowRight: [10, 0], ArrowLeft: [-10, 0] }[key]
      const moved = {}
      for (const id of picked) {
        const [x, y] = graph.places.moved[id] ?? [0, 0]
        moved[id] = [x + dx, y + dy]
      }
      desk.make({ op: 'place', moved })
    } else if (event.altKey) used = false
    else if (key.startsWith('Arrow')) {
      const to = neighbour(from, key)
      pick(event.shiftKey ? new Set([...picked, to]) : new Set([to]), to, REST_MS)
      reveal(to)
      focusOn(to)
    } else if (key === 'Home' || key === 'End') {
      const to = items.at(key === 'Home' ? 0 : -1).id
      pick(new Set([to]), to, REST_MS)
      reveal(to)
      focusOn(to)
    } else if (key === 'Enter' || key === ' ') {
      if (event.target.closest?.('button')) return
      if (byId.get(from)?.block) act.open(byId.get(from).block)
      else openForm()
    } else if (key === '/') {
      setShowsPalette(true)
      setTimeout(() => palette.current?.search(), 0)
    } else if (/^c$/i.test(key)) {
      const item = byId.get(from)
      const order = items.map((i) => i.id)
      const source = item?.block ? item.layers.at(-1).id : from
      const target = order[(order.indexOf(from) + 1) % order.length]
      if (target !== from) linkTo(source, target)
    } else if (/^f$/i.test(key)) fit(150)
    else if (key === '+' || key === '=') flow.zoomIn({ duration: 100 })
    else if (key === '-') flow.zoomOut({ duration: 100 })
    else if (key === '?') setShowsKeys((now) => !now)
    else if (key === 'Escape') {
      setShowsKeys(false)
      setArmed(null)
      setWires(new Set())
      setPicked(new Set([from]))
    } else used = !['Tab', 'Shift', 'Control', 'Alt', 'Meta', 'F5', 'F12'].includes(key) && key.length === 1
    if (used) {
      if (key.length > 1 || control || '/?+-=cCfF '.includes(key)) event.preventDefault()
      event.stopPropagation()
    }
  }
  const undo = () => {
    if (can.undo || waits) desk.make({ op: 'undo' })
    else say('There is nothing to take back.')
  }
  const redo = () => {
    if (can.redo || waits) desk.make({ op: 'redo' })
    else say('There is nothing to bring back.')
  }
  // Streamlit hears keys on the document; those that mean something here end at the border of the component.
  const keys = useRef(onKey)
  keys.current = onKey
  useEffect(() => {
    const place = root.current.getRootNode()
    const hear = (event) => flushSync(() => keys.current(event)) // a quick hand presses the next key before React would draw
    place.addEventListener('keydown', hear)
    return () => place.removeEventListener('keydown', hear)
  }, [])

  // What had the focus may be gone after an edit (a pressed repair, a deleted layer): keys are still meant for the canvas.
  const hasFocus = useRef(false)
  useEffect(() => {
    const leave = (event) => {
      if (!event.composedPath().includes(root.current)) hasFocus.current = false
    }
    document.addEventListener('pointerdown', leave, true)
    return () => document.removeEventListener('pointerdown', leave, true)
  }, [])
  const isLost = () => hasFocus.current && (document.activeElement === document.body || document.activeElement === null)
  useEffect(() => {
    const hear = (event) => isLost() && flushSync(() => keys.current(event)) // before it is found again, below
    window.addEventListener('keydown', hear, true)
    return () => window.removeEventListener('keydown', hear, true)
  }, [])
  useEffect(() => {
    const look = () => isLost() && stage.current?.focus({ preventScroll: true })
    look()
    const timer = setTimeout(look, 60) // React Flow draws the layers a moment later
    return () => clearTimeout(timer)
  })

  const steady = {
    add: useSteady(add),
    onDrag: useSteady(onDrag),
    onDrop: useSteady(onDrop),
    onDisarm: useSteady(() => setArmed(null)),
    onClosePalette: useSteady(() => setShowsPalette(false)),
    onInit: useSteady(() => setIsThere(true)),
    onNodesChange: useSteady(onNodesChange),
    onEdgesChange: useSteady(onEdgesChange),
    onDragStop: useSteady(onDragStop),
    onSelectionDragStop: useSteady((event, moved) => onDragStop(event, null, moved)),
    onNodeClick: useSteady((event, node) => {
      if (node.type === 'frame') return
      const more = event.shiftKey || event.ctrlKey || event.metaKey
      if (!more) pick(new Set([node.id]), node.id)
      else if (byId.get(node.id)?.node) desk.select(node.id)
      focusOn(node.id)
    }),
    onNodeDoubleClick: useSteady((_event, node) => (byId.get(node.id)?.block ? act.open(byId.get(node.id).block) : openForm())),
    onEdgeClick: useSteady((_event, edge) => {
      setPicked(new Set())
      setWires(new Set([edge.id]))
      focusOn(edge.target)
    }),
    onEdgeMouseEnter: useSteady((_event, edge) => setHovered(edge.id)),
    onEdgeMouseLeave: useSteady((event) => {
      if (!event.relatedTarget?.closest?.('.nw-wire-tools')) setHovered(null)
    }),
    onPaneClick: useSteady(() => {
      setLink(null)
      setWires(new Set())
      setHovered(null)
      setPicked(new Set())
      stage.current.focus({ preventScroll: true })
    }),
    onPaneMouseMove: useSteady(() => hovered && setHovered(null)),
    onConnectEnd: useSteady(onConnectEnd),
    onReconnectStart: useSteady(() => {
      rewired.current = false
    }),
    onReconnect: useSteady(onReconnect),
    onReconnectEnd: useSteady((event, edge) => {
      const { node } = under('changedTouches' in event ? event.changedTouches[0] : event)
      if (rewired.current) return
      if (node && node.dataset.id !== edge.target) onReconnect(edge, { target: node.dataset.id })
      else if (!node) act.cut(edge.data)
    }),
  }

  const closedBlocks = graph.places.blocks.some((b) => b.closed)
  const nothing = graph.nodes.length === 0
  return (
    <div
      className="nw"
      ref={root}
      data-waits={waits}
      data-step={data.steps.now}
      onFocus={() => {
        hasFocus.current = true
      }}
      onBlur={(event) => {
        if (event.relatedTarget && !root.current.contains(event.relatedTarget)) hasFocus.current = false
      }}
      onPointerDownCapture={() => {
        // A number that is being typed in the form is told before the gesture begins.
        if (!root.current.contains(root.current.getRootNode().activeElement)) stage.current.focus({ preventScroll: true })
      }}
    >
      <Palette
        ref={palette}
        palette={desk.palette}
        armed={armed}
        onAdd={steady.add}
        onDrag={steady.onDrag}
        onDrop={steady.onDrop}
        onDisarm={steady.onDisarm}
        isOpen={showsPalette}
        onClose={steady.onClosePalette}
      />
      <div className={`nw-stage${far ? ' far' : ''}${link ? ' linking' : ''}`} ref={stage} tabIndex={-1}>
        <ReactFlow
          nodes={nodes}
          edges={edges}
          nodeTypes={NODE_TYPES}
          edgeTypes={EDGE_TYPES}
          onNodesChange={steady.onNodesChange}
          onEdgesChange={steady.onEdgesChange}
          onNodeDragStop={steady.onDragStop}
          onSelectionDragStop={steady.onSelectionDragStop}
          onNodeClick={steady.onNodeClick}
          onNodeDoubleClick={steady.onNodeDoubleClick}
          onEdgeClick={steady.onEdgeClick}
          onEdgeMouseEnter={steady.onEdgeMouseEnter}
          onEdgeMouseLeave={steady.onEdgeMouseLeave}
          onPaneClick={steady.onPaneClick}
          onPaneMouseMove={steady.onPaneMouseMove}
          onConnectEnd={steady.onConnectEnd}
          onReconnectStart={steady.onReconnectStart}
          onReconnect={steady.onReconnect}
          onReconnectEnd={steady.onReconnectEnd}
          deleteKeyCode={null}
          selectionKeyCode="Shift"
          multiSelectionKeyCode={MANY}
          selectionMode={SelectionMode.Partial}
          disableKeyboardA11y
          nodesFocusable={false}
          edgesFocusable={false}
          elevateNodesOnSelect={false}
          connectionRadius={26}
          nodeDragThreshold={3}
          zoomOnDoubleClick={false}
          onInit={steady.onInit}
          {...ZOOM}
          aria-label="Network"
        >
          <Background gap={22} size={1.2} />
          {items.length > 10 && <Overview at={at}>
            <MiniMap
              pannable
              zoomable
              ariaLabel="The whole network, small"
              nodeColor={(n) => (n.type === 'frame' ? 'transparent' : n.data.node?.wrong?.severity === 'error' || n.data.wrong?.severity === 'error' ? 'var(--nw-red)' : `oklch(0.68 0.13 ${kindOf(n.data.group).hue})`)}
              nodeStrokeWidth={0}
            />
          </Overview>}
          <Arrows />
        </ReactFlow>
        <div className="nw-tools" role="toolbar" aria-label="Network tools">
          <button type="button" className="nw-tool nw-show" onClick={() => setShowsPalette((now) => !now)} aria-label="Show the layers to add" title="Add a layer ( / )">
            <Sign name="layers" />
          </button>
          <button type="button" className="nw-tool" data-tool="undo" onClick={undo} disabled={!can.undo && !waits} title={can.undo ? `Take back: ${can.undo} (Ctrl+Z)` : 'Nothing to take back'} aria-label="Undo">
            <Sign name="undo" />
          </button>
          <button type="button" className="nw-tool" data-tool="redo" onClick={redo} disabled={!can.redo && !waits} title={can.redo ? `Bring back: ${can.redo} (Ctrl+Y)` : 'Nothing to bring back'} aria-label="Redo">
            <Sign name="redo" />
          </button>
          <span className="nw-rule" />
          <button type="button" className="nw-tool" data-tool="fit" onClick={() => fit(150)} title="Show the whole network (F)" aria-label="Show the whole network">
            <Sign name="fit" />
          </button>
          <button
            type="button"
            className="nw-tool"
            data-tool="tidy"
            onClick={() => {
              make({ op: 'tidy' })
              setTimeout(() => fitSoon.current(150), 30)
            }}
            title="Tidy up: every layer back in its row"
            aria-label="Tidy up"
          >
            <Sign name="tidy" />
          </button>
          <button type="button" className="nw-tool" data-tool="fold" onClick={picked.size > 1 ? bundle : stages} title={picked.size > 1 ? 'Make a block of the chosen layers (Ctrl+G)' : 'Fold into blocks, one for each size of the picture'} aria-label="Fold into blocks">
            <Sign name="fold" />
          </button>
          {closedBlocks && (
            <button type="button" className="nw-tool" data-tool="unfold" onClick={openAll} title="Open all blocks" aria-label="Open all blocks">
              <Sign name="unfold" />
            </button>
          )}
          <button type="button" className="nw-tool" data-tool="keys" onClick={() => setShowsKeys((now) => !now)} title="Keys ( ? )" aria-label="Keys" aria-expanded={showsKeys}>
            <Sign name="keys" />
          </button>
          {wrongs.length > 0 && (
            <button type="button" className="nw-alarm" onClick={nextWrong}>
              <Sign name="wrong" />
              {wrongs.length === 1 ? '1 layer needs attention' : `${wrongs.length} layers need attention`}
            </button>
          )}
          {!wrongs.length && unfinished && (
            <button type="button" className="nw-alarm open" onClick={() => show(unfinished)} title={unfinished.wrong.words}>
              Not finished yet
            </button>
          )}
          {data.whole.map((problem) => (
            <button key={problem.path + problem.words} type="button" className="nw-alarm" disabled={!problem.repair} onClick={() => act.repair(problem)} title={problem.words}>
              <Sign name="wrong" />
              {problem.words}
            </button>
          ))}
        </div>
        {showsKeys && (
          <div className="nw-keys" role="dialog" aria-label="Keys">
            <dl>
              {KEYS.map(([key, words]) => (
                <React.Fragment key={key}>
                  <dt>{key}</dt>
                  <dd>{words}</dd>
                </React.Fragment>
              ))}
            </dl>
          </div>
        )}
        {link && (
          <div className={`nw-link${link.words ? ' no' : ''}`}>
            <b>
              {base(link.source) === INPUT ? 'Scan' : link.source} → {link.target === INPUT ? 'Scan' : link.target}
            </b>
            <span>{link.words || 'Enter connects, arrows choose another, Esc lets go.'}</span>
          </div>
        )}
        {nothing && (
          <div className="nw-empty">
            <h3>No layers yet</h3>
            <p>Click a layer on the left, or drag it here. Or begin from a ready network:</p>
            <div>
              {data.starters.map((starter) => (
                <button key={starter.name} type="button" onClick={() => desk.make({ op: 'begin', name: starter.name })}>
                  {starter.name} <i>{starter.words}</i>
                </button>
              ))}
            </div>
          </div>
        )}
        {toast && (
          <div className="nw-toast" role="status">
            <span>{toast.words}</span>
            <button type="button" onClick={() => setToast(null)} aria-label="Close">
              <Sign name="close" />
            </button>
          </div>
        )}
        <dl className="nw-facts">
          {data.facts.map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </div>
      <div className="nw-ghost" ref={ghost} hidden>
        <span className="nw-kind">
          <Icon path="" />
        </span>
        <b />
        <i />
      </div>
      <div className="nw-said" role="status" aria-live="polite">
        {said}
      </div>
    </div>
  )
}

// How high the wires between columns run.
const skyline = (routes) => [...routes.values()].flatMap((r) => (r.points ?? []).map(([, y]) => y - 6))

const sameList = (a, b) => a.length === b.length && a.every((x, k) => x === b[k])

const isOff = (graph, dragged, id) => {
  const [dx, dy] = graph.places.moved[id] ?? [0, 0]
  return Boolean(dx || dy || dragged?.has(id))
}

const tapped = (item, handle) => {
  const taps = item?.node?.taps?.length ?? 0
  return taps && handle && Number(handle) < taps ? `${item.id}:${handle}` : (item?.id ?? INPUT)
}

const holds = (layers, catalog) => {
  const count = new Map()
  for (const node of layers) {
    const title = catalog[node.name]?.title ?? node.name
    count.set(title, (count.get(title) ?? 0) + 1)
  }
  return [...count].map(([title, n]) => (n > 1 ? `${n} × ${title}` : title)).join(', ')
}

function handlesOf(item, height) {
  const spot = (x, y, type, position, id = null) => ({ id, type, position, x: x - 6, y: y - 6, width: 12, height: 12 })
  const found = item.id === INPUT ? [] : [spot(WIDTH / 2, 0, 'target', 'top')]
  const taps = item.node?.taps?.length ?? 0
  if (taps) for (let k = 0; k < taps; k += 1) found.push(spot(((k + 0.5) / taps) * WIDTH, height, 'source', 'bottom', `${k + 1}`))
  else found.push(spot(WIDTH / 2, height, 'source', 'bottom'))
  return found
}

const freshBlock = (graph) => {
  const taken = new Set(graph.places.blocks.map((b) => b.id))
  let k = 1
  while (taken.has(`block_of_layers_${k}`)) k += 1
  return `block_of_layers_${k}`
}

// Runs of layers whose results are equally large, as blocks.
function stagesOf(graph) {
  const sizeOf = (node) => (node.shape ?? '').split(' × ').slice(1).join(' × ')
  const runs = []
  for (const node of graph.nodes) {
    const size = sizeOf(node)
    if (runs.length && runs.at(-1).size === size) runs.at(-1).ids.push(node.id)
    else runs.push({ size, ids: [node.id] })
  }
  const taken = graph
  return runs
    .filter((run) => run.ids.length >= 3 && run.size && isWhole(graph, run.ids))
    .map((run, k) => ({ id: `${freshBlock(taken)}s${k + 1}`, name: `Stage ${k + 1}: ${run.size}`, ids: run.ids }))
}

// Rectangles behind the layers of open blocks, one for each column that they stand in.
function framesOf(graph, at, placeOf, act) {
  const found = []
  for (const block of graph.places.blocks) {
    if (block.closed && isWhole(graph, block.ids)) continue
    const columns = new Map()
    for (const id of block.ids) {
      if (!at.has(id)) continue
      const box = at.get(id)
      const { x, y } = placeOf(id)
      const now = columns.get(box.column) ?? { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity }
      columns.set(box.column, {
        left: Math.min(now.left, x),
        top: Math.min(now.top, y),
        right: Math.max(now.right, x + box.width),
        bottom: Math.max(now.bottom, y + box.height),
      })
    }
    ;[...columns.values()].forEach((box, k) => {
      const [width, height] = [box.right - box.left + 20, box.bottom - box.top + 34]
      found.push({
        id: `frame:${block.id}:${k}`,
        type: 'frame',
        position: { x: box.left - 10, y: box.top - 24 },
        width,
        height,
        measured: { width, height },
        handles: [],
        zIndex: -1,
        draggable: false,
        selectable: false,
        focusable: false,
        connectable: false,
        data: { block, isFirst: k === 0, onClose: act.close, onUngroup: act.ungroup },
      })
    })
  }
  return found
}

// The small map, while not all of the network is in sight.
function Overview({ at, children }) {
  const isNeeded = useStore(({ transform: [x, y, zoom], width, height }) => {
    for (const box of at.values()) {
      const [left, top] = [box.x * zoom + x, box.y * zoom + y]
      if (left < -20 || top < -20 || left + box.width * zoom > width + 20 || top + box.height * zoom > height - 10) return true
    }
    return false
  })
  return isNeeded ? children : null
}

function Arrows() {
  return (
    <svg className="nw-arrows" aria-hidden="true">
      <defs>
        {['plain', 0, 1, 2, 3, 4, 5].map((name) => (
          <marker key={name} id={`nw-arrow-${name}`} className={`lane-${name}`} viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse" markerUnits="userSpaceOnUse">
            <path d="M1 1 9 5 1 9z" />
          </marker>
        ))}
      </defs>
    </svg>
  )
}
