"""The classes of the evaluation's networks with tiny random weights, drawn so that some decide this way, some that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    PreTrainedTokenizerFast,
    SamConfig,
    SamModel,
    SamProcessor,
    SwinConfig,
    ViTConfig,
    ViTModel,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from video_alchemist.pretrained.detector import GroundingDinoDetector
from video_alchemist.pretrained.face_detector import HeatmapFaceDetector
from video_alchemist.pretrained.face_embedder import ArcFaceEmbedder, IResNet
from video_alchemist.pretrained.image_text import ClipImageTextEncoder
from video_alchemist.pretrained.segmenter import SamSegmenter
from video_alchemist.pretrained.subject_encoder import ViTSubjectEncoder


def clip_encoder() -> ClipImageTextEncoder:
    torch.manual_seed(1)
    network = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = "<pad> <start> <end> <unk> a hot dog on the beach beside".split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    text = {**network, "vocab_size": 11, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**network, "image_size": 24, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>"
    )
    return ClipImageTextEncoder(CLIPModel(config).eval(), fast)


def grounding_dino() -> GroundingDinoDetector:
    vocabulary = {f"[unused{i}]": i for i in range(1030)}
    tokens = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    tokens |= {"hot": 200, "dog": 201, "red": 202, "robot": 203}
    for token, number in tokens.items():
        vocabulary.pop(f"[unused{number}]")
        vocabulary[token] = number
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, out_indices=[2, 3, 4]
    )
    text = BertConfig(
        vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    layer = {"encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 2, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, num_queries=24, max_text_len=32, **layer, **heads
    )
    model = GroundingDinoForObjectDetection(config).eval()
    for name, parameter in model.named_parameters():  # as drawn, boxes would be alike, and all scores 1
        if "bbox_embed" in name:
            torch.nn.init.normal_(parameter, std=0.1)
            if name.endswith("layers.2.bias"):
                parameter.data[2:] += 0.6
    model.model.decoder.layer_norm.weight.data *= 0.1
    sizes = {"shortest_edge": 48, "longest_edge": 66}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(size=sizes), BertTokenizer(vocab=vocabulary))
    return GroundingDinoDetector(model, processor, batch=4)


def sam() -> SamSegmenter:
    torch.manual_seed(0)
    image, width = {"image_size": 32, "patch_size": 8}, 16
    vision = SamVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_dim=16, output_channels=width,
        num_pos_feats=width // 2, window_size=0, global_attn_indexes=[0], initializer_range=0.3, **image,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=width, mask_input_channels=4, **image)
    decoder = SamMaskDecoderConfig(hidden_size=width, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).eval()
    for parameter in model.mask_decoder.parameters():  # as drawn, masks would be empty
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)
    square, small = {"height": 32, "width": 32}, {"height": 16, "width": 16}
    processor = SamImageProcessorPil(
        size={"longest_edge": 32}, pad_size=square, mask_size={"longest_edge": 16}, mask_pad_size=small
    )
    return SamSegmenter(model, SamProcessor(processor), batch=4)


def tiny_roles() -> Any:
    torch.manual_seed(0)
    vit = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit_config = ViTConfig(image_size=24, patch_size=8, initializer_range=0.5, **vit)
    faces = HeatmapFaceDetector((8, 8), width=8, size=96, min_score=0.2, max_faces=5).eval()
    torch.nn.init.constant_(faces.head[2].bias[:1], -1.0)
    torch.nn.init.constant_(faces.head[2].bias[3:], 1.2)  # type: ignore[index]
    return SimpleNamespace(
        image_text=clip_encoder(),
        detector=grounding_dino(),
        segmenter=sam(),
        subject_encoder=ViTSubjectEncoder(ViTModel(vit_config, add_pooling_layer=False), batch=3),
        face_detector=faces,
        face_embedder=ArcFaceEmbedder(IResNet((1, 1, 1, 1), width=8, size=32, embedding=16), batch=3),
    )
