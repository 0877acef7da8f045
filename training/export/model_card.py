"""The model card of an LLM's artifact: the `README.md` that the Hugging Face Hub shows, and the metadata by which it is found there."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from models.answering.prompts import ANSWER_FOLLOWS, undecided_prompt
from training.config import Config
from training.evaluation.report import answer_measures, bits_per_byte_measure, squad2_sections
from training.figures import table

HUB_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The Hub ids of base models that come from elsewhere, by display name."""
TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

{{ base_model }}, fine-tuned on {{ dataset }} with Trigen's `train.py`. It answers questions about a passage
{%- if abstains %}, or ends its text at once if the passage does not tell{% endif %}.

## Use

In this directory, with torch and transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id = "."  # or the id of this model's repository on the Hub
tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id)

context = "From 1889 to 1921 the light was kept by Anna Berg."
question = "Who kept the light?"
prompt = f{{ prompt }}
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=32, do_sample=False)
text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
{%- if abstains %}
print(text.removeprefix("{{ colon }}").strip() or "The passage does not tell.")
{%- else %}
print(text.strip())
{%- endif %}
```

Without a passage, the prompt is `f{{ prompt_without_context }}`.

In Trigen's directory, `generate.py` and the service run this model, given as DIR, with {{ metrics.weights or "int8" }} weights on a CPU
{%- if abstains %}. They decline above the threshold in `trigen.json`{% endif %}:

```sh
python generate.py --model DIR --context "From 1889 to 1921 the light was kept by Anna Berg." "Who kept the light?"
```

## Training

The data set has {{ "{:,}".format(rows.train_rows) }} training and {{ "{:,}".format(rows.test_rows) }} test questions
(fingerprint `{{ rows.fingerprint }}`). The model has seen {{ "{:,}".format(metrics.rows) }} questions, counted anew in each epoch, and
{{ "{:,}".format(metrics.tokens) }} tokens in {{ "{:,}".format(metrics.steps) }} steps.
[report.md](report.md) has all settings, the curves and examples.

## Evaluation

The answers come from the engine of Trigen's service. Errors are standard errors (bootstrap over passages).

{{ evaluation }}

## Limits

- On {{ "%.0f" % (100 - metrics.exact_match) }} % of the {{ "{:,}".format(metrics.questions) }} answerable test questions, its answer is
  not exactly one of the references.
{%- if metrics.squad2 %}
- At the threshold in `trigen.json`, it answers {{ "%.0f" % (100 - metrics.squad2.no_answer_exact_match) }} % of the
  {{ "{:,}".format(metrics.squad2.unanswerable) }} unanswerable test questions all the same, and declines or answers inexactly
  {{ "%.0f" % (100 - metrics.squad2.has_answer_exact_match) }} % of the answerable ones.
{%- endif %}
{%- if abstains %}
- The Python code above has no threshold: it takes what is more probable.
{%- endif %}
- Asked without a passage, it answers from memory, with an F1 of {{ "%.0f" % metrics.without_context.f1 }} %. Do not rely on that.
- All figures are for questions like those of {{ dataset }}. Other subjects, other languages, and passages of more than
  {{ max_length }} tokens were not measured.
- With transformers, the bf16 weights may give other answers than the service's engine.
- It was not tested for biases, which it may have from its base model and its data.

## Licence

Not stated: `train.py` does not know the licences of the base model and of the data set. Before you publish the model, find them out and
add `license` to the metadata at the top of this file.

"""


def write_model_card(directory: Path, base_model: str, dataset: str, rows: dict[str, Any], config: Config, metrics: dict[str, Any]) -> None:
    """Write `README.md` into an artifact, next to the report.

    `base_model` and `dataset` are display names; one with a slash is a Hub id. `rows` is the description of the splits.
    """
    base_model = HUB_IDS.get(base_model, base_model)
    title, abstains = f"{base_model.split('/')[-1]} fine-tuned on {dataset}", config.unanswerable_share > 0
    data = ModelCardData(
        base_model=base_model if "/" in base_model else None,
        datasets=[dataset] if "/" in dataset else None,
        eval_results=_eval_results(dataset, metrics),
        library_name="transformers",
        metrics=["exact_match", "f1"],
        model_name=title,
        pipeline_tag="text-generation",
        tags=["question-answering", "openvino", "trigen"],
    )
    measures = table(("measure", "value"), [*answer_measures(metrics), bits_per_byte_measure(metrics)])
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=title,
        base_model=base_model,
        dataset=dataset,
        rows=rows,
        metrics=metrics,
        abstains=abstains,
        colon=ANSWER_FOLLOWS,
        # A model that may decline decides itself whether an answer follows.
        prompt=json.dumps(undecided_prompt("{question}", "{context}", config.prompt) + ("" if abstains else ANSWER_FOLLOWS)),
        prompt_without_context=json.dumps(undecided_prompt("{question}") + ANSWER_FOLLOWS),
        evaluation="\n\n".join([measures, *squad2_sections(metrics)]),
        max_length=config.max_length,
    )
    card.save(directory / "README.md")


def _eval_results(dataset: str, metrics: dict[str, Any]) -> list[EvalResult]:
    """Return the metrics as the Hub's `model-index`."""
    found = [
        ("question-answering", "exact_match", metrics["exact_match"], "exact match, answerable questions, always answering"),
        ("question-answering", "f1", metrics["f1"], "F1, answerable questions, always answering"),
        ("text-generation", "bits_per_byte", metrics["bits_per_byte"], "bits per byte of held-out passages"),
    ]
    if squad2 := metrics.get("squad2"):
        found += [
            ("question-answering", "exact_match", squad2["exact_match"], "exact match, all questions, may decline (SQuAD 2.0)"),
            ("question-answering", "f1", squad2["f1"], "F1, all questions, may decline (SQuAD 2.0)"),
        ]
    return [
        EvalResult(
            task_type=task, dataset_type=dataset, dataset_name=dataset, metric_type=kind, metric_value=round(value, 4), metric_name=name
        )
        for task, kind, value, name in found
    ]
