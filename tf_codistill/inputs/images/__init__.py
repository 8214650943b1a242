"""Images as batches that are a function of (seed, group, worker, step), augmentation included.

    data = sources.open_images("imagenet")              class folders, or records made by us or by others
    part, order = data.part("train"), Order.of_group(...)
    stream = ImageStream(part=part, size=224, batch_size=256, order=order, seed=(1, 0))
    stream.dataset(first_step=1370)                     Keyed((uint8 [B, H, W, 3], int32 [B]), keys)

`sources` says where the bytes of an image are, `decoding` makes pixels of them, `stream` batches of these.
"""
