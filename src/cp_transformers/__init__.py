# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""ContextPool variants of transformers' models; importing the package registers them with the Auto classes."""

from .families import register
from .models.configuration_cp_beit import CPBeitConfig
from .models.configuration_cp_bert import CPBertConfig
from .models.configuration_cp_clip_vision_model import CPCLIPVisionConfig
from .models.configuration_cp_deberta_v2 import CPDebertaV2Config
from .models.configuration_cp_deit import CPDeiTConfig
from .models.configuration_cp_dinov2 import CPDinov2Config
from .models.configuration_cp_dinov2_with_registers import CPDinov2WithRegistersConfig
from .models.configuration_cp_dinov3_vit import CPDINOv3ViTConfig
from .models.configuration_cp_distilbert import CPDistilBertConfig
from .models.configuration_cp_electra import CPElectraConfig
from .models.configuration_cp_esm import CPEsmConfig
from .models.configuration_cp_modernbert import CPModernBertConfig
from .models.configuration_cp_resnet import CPResNetConfig
from .models.configuration_cp_roberta import CPRobertaConfig
from .models.configuration_cp_siglip_vision_model import CPSiglipVisionConfig
from .models.configuration_cp_vit import CPViTConfig
from .models.configuration_cp_xlm_roberta import CPXLMRobertaConfig
from .models.context_pool import ContextPool
from .models.modeling_cp_beit import (
    CPBeitBackbone,
    CPBeitForImageClassification,
    CPBeitForMaskedImageModeling,
    CPBeitForSemanticSegmentation,
    CPBeitModel,
    CPBeitPreTrainedModel,
)
from .models.modeling_cp_bert import (
    CPBertForMaskedLM,
    CPBertForMultipleChoice,
    CPBertForNextSentencePrediction,
    CPBertForPreTraining,
    CPBertForQuestionAnswering,
    CPBertForSequenceClassification,
    CPBertForTokenClassification,
    CPBertModel,
    CPBertPreTrainedModel,
)
from .models.modeling_cp_clip_vision_model import (
    CPCLIPForImageClassification,
    CPCLIPPreTrainedModel,
    CPCLIPVisionModel,
    CPCLIPVisionModelWithProjection,
)
from .models.modeling_cp_deberta_v2 import (
    CPDebertaV2ForMaskedLM,
    CPDebertaV2ForMultipleChoice,
    CPDebertaV2ForQuestionAnswering,
    CPDebertaV2ForSequenceClassification,
    CPDebertaV2ForTokenClassification,
    CPDebertaV2Model,
    CPDebertaV2PreTrainedModel,
)
from .models.modeling_cp_deit import (
    CPDeiTForImageClassification,
    CPDeiTForImageClassificationWithTeacher,
    CPDeiTForMaskedImageModeling,
    CPDeiTModel,
    CPDeiTPreTrainedModel,
)
from .models.modeling_cp_dinov2 import (
    CPDinov2Backbone,
    CPDinov2ForImageClassification,
    CPDinov2Model,
    CPDinov2PreTrainedModel,
)
from .models.modeling_cp_dinov2_with_registers import (
    CPDinov2WithRegistersBackbone,
    CPDinov2WithRegistersForImageClassification,
    CPDinov2WithRegistersModel,
    CPDinov2WithRegistersPreTrainedModel,
)
from .models.modeling_cp_dinov3_vit import (
    CPDINOv3ViTBackbone,
    CPDINOv3ViTModel,
    CPDINOv3ViTPreTrainedModel,
)
from .models.modeling_cp_distilbert import (
    CPDistilBertForMaskedLM,
    CPDistilBertForMultipleChoice,
    CPDistilBertForQuestionAnswering,
    CPDistilBertForSequenceClassification,
    CPDistilBertForTokenClassification,
    CPDistilBertModel,
    CPDistilBertPreTrainedModel,
)
from .models.modeling_cp_electra import (
    CPElectraForMaskedLM,
    CPElectraForMultipleChoice,
    CPElectraForPreTraining,
    CPElectraForQuestionAnswering,
    CPElectraForSequenceClassification,
    CPElectraForTokenClassification,
    CPElectraModel,
    CPElectraPreTrainedModel,
)
from .models.modeling_cp_esm import (
    CPEsmForMaskedLM,
    CPEsmForSequenceClassification,
    CPEsmForTokenClassification,
    CPEsmModel,
    CPEsmPreTrainedModel,
)
from .models.modeling_cp_modernbert import (
    CPModernBertForMaskedLM,
    CPModernBertForMultipleChoice,
    CPModernBertForQuestionAnswering,
    CPModernBertForSequenceClassification,
    CPModernBertForTokenClassification,
    CPModernBertModel,
    CPModernBertPreTrainedModel,
)
from .models.modeling_cp_resnet import (
    CPResNetBackbone,
    CPResNetForImageClassification,
    CPResNetModel,
    CPResNetPreTrainedModel,
)
from .models.modeling_cp_roberta import (
    CPRobertaForMaskedLM,
    CPRobertaForMultipleChoice,
    CPRobertaForQuestionAnswering,
    CPRobertaForSequenceClassification,
    CPRobertaForTokenClassification,
    CPRobertaModel,
    CPRobertaPreTrainedModel,
)
from .models.modeling_cp_siglip_vision_model import (
    CPSiglipForImageClassification,
    CPSiglipPreTrainedModel,
    CPSiglipVisionModel,
)
from .models.modeling_cp_vit import (
    CPViTForImageClassification,
    CPViTForMaskedImageModeling,
    CPViTModel,
    CPViTPreTrainedModel,
)
from .models.modeling_cp_xlm_roberta import (
    CPXLMRobertaForMaskedLM,
    CPXLMRobertaForMultipleChoice,
    CPXLMRobertaForQuestionAnswering,
    CPXLMRobertaForSequenceClassification,
    CPXLMRobertaForTokenClassification,
    CPXLMRobertaModel,
    CPXLMRobertaPreTrainedModel,
)


__version__ = "0.1.0"

__all__ = [
    "CPBeitBackbone",
    "CPBeitConfig",
    "CPBeitForImageClassification",
    "CPBeitForMaskedImageModeling",
    "CPBeitForSemanticSegmentation",
    "CPBeitModel",
    "CPBeitPreTrainedModel",
    "CPBertConfig",
    "CPBertForMaskedLM",
    "CPBertForMultipleChoice",
    "CPBertForNextSentencePrediction",
    "CPBertForPreTraining",
    "CPBertForQuestionAnswering",
    "CPBertForSequenceClassification",
    "CPBertForTokenClassification",
    "CPBertModel",
    "CPBertPreTrainedModel",
    "CPCLIPForImageClassification",
    "CPCLIPPreTrainedModel",
    "CPCLIPVisionConfig",
    "CPCLIPVisionModel",
    "CPCLIPVisionModelWithProjection",
    "CPDINOv3ViTBackbone",
    "CPDINOv3ViTConfig",
    "CPDINOv3ViTModel",
    "CPDINOv3ViTPreTrainedModel",
    "CPDebertaV2Config",
    "CPDebertaV2ForMaskedLM",
    "CPDebertaV2ForMultipleChoice",
    "CPDebertaV2ForQuestionAnswering",
    "CPDebertaV2ForSequenceClassification",
    "CPDebertaV2ForTokenClassification",
    "CPDebertaV2Model",
    "CPDebertaV2PreTrainedModel",
    "CPDeiTConfig",
    "CPDeiTForImageClassification",
    "CPDeiTForImageClassificationWithTeacher",
    "CPDeiTForMaskedImageModeling",
    "CPDeiTModel",
    "CPDeiTPreTrainedModel",
    "CPDinov2Backbone",
    "CPDinov2Config",
    "CPDinov2ForImageClassification",
    "CPDinov2Model",
    "CPDinov2PreTrainedModel",
    "CPDinov2WithRegistersBackbone",
    "CPDinov2WithRegistersConfig",
    "CPDinov2WithRegistersForImageClassification",
    "CPDinov2WithRegistersModel",
    "CPDinov2WithRegistersPreTrainedModel",
    "CPDistilBertConfig",
    "CPDistilBertForMaskedLM",
    "CPDistilBertForMultipleChoice",
    "CPDistilBertForQuestionAnswering",
    "CPDistilBertForSequenceClassification",
    "CPDistilBertForTokenClassification",
    "CPDistilBertModel",
    "CPDistilBertPreTrainedModel",
    "CPElectraConfig",
    "CPElectraForMaskedLM",
    "CPElectraForMultipleChoice",
    "CPElectraForPreTraining",
    "CPElectraForQuestionAnswering",
    "CPElectraForSequenceClassification",
    "CPElectraForTokenClassification",
    "CPElectraModel",
    "CPElectraPreTrainedModel",
    "CPEsmConfig",
    "CPEsmForMaskedLM",
    "CPEsmForSequenceClassification",
    "CPEsmForTokenClassification",
    "CPEsmModel",
    "CPEsmPreTrainedModel",
    "CPModernBertConfig",
    "CPModernBertForMaskedLM",
    "CPModernBertForMultipleChoice",
    "CPModernBertForQuestionAnswering",
    "CPModernBertForSequenceClassification",
    "CPModernBertForTokenClassification",
    "CPModernBertModel",
    "CPModernBertPreTrainedModel",
    "CPResNetBackbone",
    "CPResNetConfig",
    "CPResNetForImageClassification",
    "CPResNetModel",
    "CPResNetPreTrainedModel",
    "CPRobertaConfig",
    "CPRobertaForMaskedLM",
    "CPRobertaForMultipleChoice",
    "CPRobertaForQuestionAnswering",
    "CPRobertaForSequenceClassification",
    "CPRobertaForTokenClassification",
    "CPRobertaModel",
    "CPRobertaPreTrainedModel",
    "CPSiglipForImageClassification",
    "CPSiglipPreTrainedModel",
    "CPSiglipVisionConfig",
    "CPSiglipVisionModel",
    "CPViTConfig",
    "CPViTForImageClassification",
    "CPViTForMaskedImageModeling",
    "CPViTModel",
    "CPViTPreTrainedModel",
    "CPXLMRobertaConfig",
    "CPXLMRobertaForMaskedLM",
    "CPXLMRobertaForMultipleChoice",
    "CPXLMRobertaForQuestionAnswering",
    "CPXLMRobertaForSequenceClassification",
    "CPXLMRobertaForTokenClassification",
    "CPXLMRobertaModel",
    "CPXLMRobertaPreTrainedModel",
    "ContextPool",
    "convert_checkpoint",
    "convert_model",
    "inspect_pools",
    "register",
]

register()

from .checkpoints.conversion import convert_checkpoint, convert_model  # noqa: E402
from .inspection import inspect_pools  # noqa: E402
