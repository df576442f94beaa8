"""Gates that are certain of a structure: which units of a slot it keeps."""


def kept_units(kept, config, layer, slot):
    """Positions of what the spec `kept` keeps, in a dense encoder's slot of a layer (of `z_conv` one of the CNN)."""
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
