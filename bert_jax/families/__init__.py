"""The families of models, one file each. To add one, write its file and name it here twice."""

from typing import Literal

from bert_jax.families.albert import ALBERT
from bert_jax.families.base import Family, NameTable
from bert_jax.families.bert import BERT
from bert_jax.families.distilbert import DISTILBERT
from bert_jax.families.electra import ELECTRA
from bert_jax.families.modernbert import MODERNBERT
from bert_jax.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

__all__ = ["BERT", "FAMILIES", "Family", "FamilyName", "NameTable"]

FamilyName = Literal["bert", "albert", "electra", "modernbert", "roberta", "xlm-roberta", "camembert", "distilbert"]
FAMILIES: dict[str, Family] = {
    family.name: family for family in (BERT, ALBERT, ELECTRA, MODERNBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT)
}
