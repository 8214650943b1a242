"""The file of a SentencePiece model, a protocol buffer, as far as we read or change it.

    model = parse(files.read("llama.model"))
    model.pieces[3].piece, model.pieces[3].type == CONTROL
    Normalizer.FromString(model.normalizer).add_dummy_prefix
    model.SerializeToString()                      the same bytes again, as long as nothing is changed

The package `sentencepiece` has the compiled schema, but for a newer protobuf than TensorFlow takes.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""

UNIGRAM = 1
"""Type of the models that add up scores."""

_SCHEMA = """
name: "tf_codistill/sentencepiece_model.proto" package: "tf_codistill" syntax: "proto2"
message_type { name: "Model"
  field { name: "pieces" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "Piece" }
  field { name: "trainer" number: 2 label: LABEL_OPTIONAL type: TYPE_BYTES }
  field { name: "normalizer" number: 3 label: LABEL_OPTIONAL type: TYPE_BYTES } }
message_type { name: "Piece"
  field { name: "piece" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "score" number: 2 label: LABEL_OPTIONAL type: TYPE_FLOAT }
  field { name: "type" number: 3 label: LABEL_OPTIONAL type: TYPE_INT32 default_value: "1" } }
message_type { name: "Trainer"
  field { name: "model_type" number: 3 label: LABEL_OPTIONAL type: TYPE_INT32 default_value: "1" }
  field { name: "unk_surface" number: 44 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "Normalizer"
  field { name: "charsmap" number: 2 label: LABEL_OPTIONAL type: TYPE_BYTES }
  field { name: "add_dummy_prefix" number: 3 label: LABEL_OPTIONAL type: TYPE_BOOL default_value: "true" }
  field { name: "remove_spaces" number: 4 label: LABEL_OPTIONAL type: TYPE_BOOL default_value: "true" } }
"""

_pool = descriptor_pool.DescriptorPool()
_pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
_Model, Trainer, Normalizer = (
    message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"tf_codistill.{name}"))
    for name in ("Model", "Trainer", "Normalizer")
)


def parse(content: bytes) -> Any:
    """The message in the content of a model's file, with at least one piece; otherwise a `ValueError`.

    In it, `Trainer` and `Normalizer` are bytes, which keep the order of the fields that have no name here.
    """
    try:
        model: Any = _Model.FromString(content)
    except message.DecodeError as error:
        raise ValueError("these bytes are no SentencePiece model") from error
    if not model.pieces:
        raise ValueError("these bytes are no SentencePiece model: it would have pieces")
    return model
