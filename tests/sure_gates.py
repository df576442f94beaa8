"""Gates that are certain of a structure: the units of a slot that it keeps."""


def kept_units(kept, config, layer, slot):
    """Positions of the units that the spec `kept` keeps in a slot of a dense layer (`z_conv`: of a CNN layer)."""
    if slot == "z_conv":
        return list(kept.channels[layer])
    if slot == "z_pos":
        return list(kept.position_groups)
    of, k = kept.layers[layer], config.head_dim
    return {
        "z_mha": [0] if of.attention else [],
        "z_ffn": [0] if of.feed_forward else [],
        "z_int": list(of.ffn),
        "z_qk": [head.index * k + d for head in of.heads for d in head.qk],
        "z_vo": [head.index * k + d for head in of.heads for d in head.vo],
    }[slot]
