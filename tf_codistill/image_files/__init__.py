"""Images on disk, as class folders or as records: a format of which those who write and those who read know.

    <data_dir>/train/<class>/<name>.jpg             class folders: `folders.scan`
    <data_dir>/validation/<class>/<name>.jpg

    <data_dir>/train-00000-of-00008.tfrecord        records: TFRecord files of tf.train.Example with the
    features <data_dir>/train-00000-of-00008.index           image/encoded and image/class/label,
    `records.scan`; an index <data_dir>/manifest.json                        and a manifest where
    `prepare_images` has made them

An index says where the bytes of each image begin in its record file, so that any image is read at random and
without parsing: int64 [N, 3] of offset, number of bytes and label.
"""
