// What stands on the canvas: the scan, layers, closed blocks, frames of open blocks, and the wires.
import React, { memo } from 'react'
import { BaseEdge, EdgeLabelRenderer, Handle, Position, getBezierPath } from '@xyflow/react'
import { Icon, Sign, kindOf } from './icons.jsx'
import { rounded } from './layout.js'

const plain = (words) => words.replaceAll(' x ', ' × ')

function Wrong({ wrong, onRepair }) {
  return (
    <div className={`nw-wrong ${wrong.severity}`}>
      <p title={plain(wrong.words)}>{plain(wrong.words)}</p>
      {wrong.repair && (
        <button
          type="button"
          className="nw-repair nodrag nopan"
          tabIndex={-1}
          title={wrong.repair}
          onClick={(event) => {
            event.stopPropagation()
            onRepair(wrong)
          }}
        >
          {wrong.repair}
        </button>
      )}
    </div>
  )
}

export const Layer = memo(function Layer({ id, data, selected }) {
  const { node, title, group, isEnd, fed, aim } = data
  const { hue, path } = kindOf(group)
  const taps = node.taps?.length ? node.taps : null
  const wrong = node.wrong
  return (
    <div
      className={`nw-card${selected ? ' picked' : ''}${wrong ? ` is-${wrong.severity}` : ''}${aim ? ` aim-${aim}` : ''}`}
      style={{ '--hue': hue }}
    >
      <Handle type="target" position={Position.Top} className={fed ? '' : 'unfed'} />
      <div className="nw-head">
        <span className="nw-kind">
          <Icon path={path} />
        </span>
        <b className="nw-title">{title}</b>
        {isEnd && <span className="nw-tag">output</span>}
        <span className="nw-name">{id}</span>
      </div>
      <div className="nw-brief">
        <span>{plain(node.brief || '–')}</span>
        {node.cost && <span className="nw-cost">{node.cost}</span>}
      </div>
      {wrong && <Wrong wrong={wrong} onRepair={data.onRepair} />}
      {taps ? (
        taps.map((shape, k) => (
          <Handle
            key={k}
            id={`${k + 1}`}
            type="source"
            position={Position.Bottom}
            className="tap"
            style={{ left: `${((k + 0.5) / taps.length) * 100}%` }}
            title={`Output ${k + 1}: ${shape}`}
          />
        ))
      ) : (
        <Handle type="source" position={Position.Bottom} />
      )}
      <span className={`nw-shape${node.shape ? '' : ' none'}`}>
        {node.shape || (node.shape === undefined ? '…' : wrong?.severity === 'error' ? '' : 'no shape yet')}
        {node.each && <i> each</i>}
      </span>
    </div>
  )
})

export const Scan = memo(function Scan({ data, selected }) {
  return (
    <div className={`nw-card nw-scan${selected ? ' picked' : ''}${data.aim ? ` aim-${data.aim}` : ''}`}>
      <div className="nw-head">
        <span className="nw-kind">
          <Sign name="scan" />
        </span>
        <b className="nw-title">Scan</b>
      </div>
      <div className="nw-brief">
        <span>{data.brief}</span>
      </div>
      <Handle type="source" position={Position.Bottom} />
      <span className="nw-shape">{data.shape}</span>
    </div>
  )
})

export const Closed = memo(function Closed({ data, selected }) {
  const { block, layers, wrong, aim } = data
  return (
    <div className={`nw-card nw-block${selected ? ' picked' : ''}${wrong ? ` is-${wrong.severity}` : ''}${aim ? ` aim-${aim}` : ''}`}>
      <Handle type="target" position={Position.Top} />
      <div className="nw-head">
        <span className="nw-kind">
          <Sign name="unfold" />
        </span>
        <b className="nw-title">{block.name}</b>
        <button
          type="button"
          className="nw-open nodrag nopan"
          tabIndex={-1}
          aria-label={`Open the block ${block.name}`}
          onClick={(event) => {
            event.stopPropagation()
            data.onOpen(block)
          }}
        >
          Open
        </button>
      </div>
      <div className="nw-brief">
        <span>
          {layers.length} layers: {data.holds}
        </span>
      </div>
      {wrong && <Wrong wrong={wrong} onRepair={data.onRepair} />}
      <Handle type="source" position={Position.Bottom} />
      <span className={`nw-shape${data.shape ? '' : ' none'}`}>{data.shape || 'no shape yet'}</span>
    </div>
  )
})

export const Frame = memo(function Frame({ data }) {
  return (
    <div className="nw-frame">
      {data.isFirst && (
        <div className="nw-frame-head">
          <button type="button" className="nodrag nopan" tabIndex={-1} onClick={() => data.onClose(data.block)} title="Close this block">
            <Sign name="fold" />
            {data.block.name}
          </button>
          <button
            type="button"
            className="nodrag nopan nw-ungroup"
            tabIndex={-1}
            onClick={() => data.onUngroup(data.block)}
            aria-label={`Dissolve the block ${data.block.name}`}
            title="Dissolve this block; its layers stay"
          >
            <Sign name="close" />
          </button>
        </div>
      )}
    </div>
  )
})

export const Wire = memo(function Wire(props) {
  const { id, sourceX, sourceY, targetX, targetY, sourcePosition, targetPosition, selected, markerEnd, data } = props
  const { route, isStill } = data
  let path
  let middle = [(sourceX + targetX) / 2, (sourceY + targetY) / 2]
  if (isStill && route.points) {
    path = rounded(route.points)
    const k = Math.floor(route.points.length / 2)
    const [a, b] = [route.points[k - 1], route.points[k]]
    middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]
  } else if (Math.abs(sourceX - targetX) < 1 && targetY > sourceY) {
    path = `M${sourceX},${sourceY}L${targetX},${targetY}`
  } else {
    path = getBezierPath({ sourceX, sourceY, targetX, targetY, sourcePosition, targetPosition })[0]
  }
  const kind = route.kind === 'skip' ? `nw-wire skip lane-${route.lane % 6}` : 'nw-wire'
  return (
    <>
      <BaseEdge
        id={id}
        path={path}
        markerEnd={markerEnd}
        interactionWidth={18}
        className={`${kind}${selected ? ' picked' : ''}${data.isNear ? ' near' : ''}`}
      />
      {(selected || data.isHovered) && (
        <EdgeLabelRenderer>
          <div className="nw-wire-tools nodrag nopan" style={{ transform: `translate(calc(-100% - 5px),-50%) translate(${middle[0]}px,${middle[1]}px)` }}>
            <button type="button" tabIndex={-1} title="Put a layer here" aria-label="Put a layer into this wire" onClick={() => data.onInsert(data)}>
              <Sign name="plus" />
            </button>
            <button type="button" tabIndex={-1} title="Delete this wire" aria-label="Delete this wire" onClick={() => data.onCut(data)}>
              <Sign name="close" />
            </button>
          </div>
        </EdgeLabelRenderer>
      )}
    </>
  )
})
