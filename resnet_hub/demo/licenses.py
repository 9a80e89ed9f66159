"""Licenses of models, in words: what a person must know before using one."""

import gradio as gr

from resnet_hub.checkpoints.model_card import excludes_commercial_use, name_license
from resnet_hub.demo.i18n import translate

_TERMS = {  # license -> what a person needs to know of it
    **dict.fromkeys(("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "bsd"), "terms_free"),
    **dict.fromkeys(("cc0-1.0", "unlicense", "pddl"), "terms_public"),
    **dict.fromkeys(("cc-by-4.0", "cc-by-3.0", "cc-by-2.0"), "terms_credit"),
    **dict.fromkeys(("cc-by-sa-4.0", "cc-by-sa-3.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"), "terms_alike"),
    "other": "terms_own",
}


def describe_license(license: str | None, request: gr.Request) -> str | None:
    """The name of a license, with what a person must know before they use the model."""
    if excludes_commercial_use(license):
        return translate(request, "noncommercial", license=name_license(license))
    return translate(request, "own_terms") if license == "other" else name_license(license) or None


def describe_terms(license: str | None, request: gr.Request) -> str:
    """What the license of a base allows with a model that is trained from it, in a sentence."""
    key = _TERMS.get((license or "").lower(), "terms_other" if license else "terms_unknown")
    if excludes_commercial_use(license):
        key = "terms_noncommercial"
    return translate(request, key, license=name_license(license))
