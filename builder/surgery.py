"""Operations on a network's document that change its layers and not what it computes."""

from builder.network import plan_of, settings, wires
from builder.spec import Experiment, Node, SpecError, Value, feeder

_ASSUMED_CLASSES = 2


def expand(experiment: Experiment, id: str) -> Experiment:
    """Returns the document with a timm backbone replaced by its stages, one node each, wired in a chain.

    With the same weights the outputs are the same. Stages that were frozen stay so; who was fed by a tap is fed by its
    stage, everyone else by the last one.

    Raises:
        SpecError: in words, for another layer, a backbone whose input is not known, or a model that cannot be parted.
    """
    from builder.blocks.backbone import TimmStage

    index = next((k for k, n in enumerate(experiment.network) if n.id == id), None)
    if index is None or experiment.network[index].name != "timm_backbone":
        raise SpecError(f"{id!r} is no timm backbone; only such a layer can be opened into its stages.")
    node = experiment.network[index]
    try:
        chosen = settings(node)
    except ValueError as error:
        raise SpecError(str(error)) from None
    fed = wires(experiment.network)[index]
    shape = plan_of(experiment, _ASSUMED_CLASSES).along(fed[0])
    if shape is None or len(shape) < 3:
        raise SpecError(f"What comes into {id} is not known yet; put the layers above it right first.")
    try:
        stages, _ = TimmStage.parted(chosen["model"], shape[-3], shape[-2])
    except ValueError as error:
        raise SpecError(str(error)) from None
    taken = {n.id for n in experiment.network} - {id}
    ids = [_free(f"{id[:32]}_stage{k}", taken) for k in range(1, len(stages) + 1)]
    nodes = []
    for number, (own, above) in enumerate(zip(ids, [None, *ids], strict=False), 1):
        params: dict[str, Value] = {
            name: node.params[name] for name in ("model", "weights", "file", "drop_path") if name in node.params
        }
        params["stage"] = number
        if number == len(ids) and chosen["output"] != "stages":
            params["output"] = chosen["output"]
        if chosen["frozen"] or number <= chosen["frozen_stages"]:
            params["frozen"] = True
        nodes.append(Node(id=own, name="timm_stage", params=params, inputs=node.inputs if above is None else (above,)))

    def led(wire: str) -> str:
        if feeder(wire) != id:
            return wire
        tap = wire.partition(":")[2]
        return ids[int(tap) - 1] if tap.isdecimal() and 1 <= int(tap) <= len(ids) else ids[-1]

    others = [n.model_copy(update={"inputs": tuple(map(led, n.inputs))}) for n in experiment.network]
    return experiment._with((*others[:index], *nodes, *others[index + 1 :]))


def _free(wanted: str, taken: set[str]) -> str:
    return next(i for i in (wanted, *(f"{wanted}_{k}" for k in range(2, 99))) if i not in taken)
