"""The XML files of ImageNet's boxes."""


def stem(number: int) -> str:
    """Name a validation image of ImageNet, and its annotation."""
    return f"ILSVRC2012_val_{number:08d}"


def annotation(number: int, objects: list[tuple], width: int = 30, height: int = 24) -> str:
    """What ILSVRC2012_bbox_val_v3.tgz has for an image."""
    parts = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    return (
        f"<annotation><folder>val</folder><filename>{stem(number)}</filename><source><database>ILSVRC_2012</database>"
        f"</source><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{parts}</annotation>"
    )
