"""Templates of the recipes that ``prooftune init`` writes."""

MANY_TRUNCATED = (
    "\n  max_truncated: 1.0             # maximum share of truncated texts; 0.2 by default"
)

TEMPLATED = (
    "\n  near_duplicates: null          # the texts are alike: only exact copies count as copies"
)

RETRIEVAL_COMMENT = """
# retrieval:                     # answer from your PDF, Office, HTML or text documents
#   documents: documents         # then add variants, such as
#   passages: 3                  #   with-passages: {kind: zero-shot, context: retrieved}
"""

# Doubled braces are single ones after `str.format`.
_HEAD = """\
# {file}: <what>fine-tuning compared with simpler baselines.
#
#   prooftune check {recipe}     audits the data and estimates time and memory
#   prooftune run {recipe}       runs the study and writes runs/{name}/report.html
name: {name}
task: <task>
seed: 0

data:
{data}
"""

_TRAINING = """
lora: {{r: 16, lora_alpha: 32, target_modules: all-linear}}
training:                        # transformers.TrainingArguments fields
  learning_rate: 1e-3            # for small models; 2e-4 from 500M parameters
"""

CLASSIFICATION_TEMPLATE = (
    _HEAD.replace("<what>", "").replace("<task>", "classification")
    + """\
  # test: "another file"         # default: hold out 20%, stratified by label, copies together
  # validation: "another file"   # default: hold out 10% of the remaining rows
  limit: {{train: 2000, validation: 300, test: 1000}}   # raise or remove after a first run

audit:
  leak: error                    # train-test contamination: error, drop or allow{audit}

model: smollm2-135m-instruct     # or a hub name such as meta-llama/Llama-3.2-1B, or a folder

prompt:
  max_length: {max_length}                # tokens; longer texts are truncated and counted
"""
    + _TRAINING
    + """\
  num_train_epochs: {epochs}
  per_device_train_batch_size: 16

variants:
  majority:
  tfidf:
  embedding:                     # sentence embeddings and logistic regression
  # encoder: {{model: answerdotai/ModernBERT-base}}   # a fine-tuned BERT, from the hub
  zero-shot:
  few-shot: {{shots: 4}}
  prompted:
  tuned:
"""
)

_PROMPTED = """\
  zero-shot:
  few-shot: {{shots: 4}}
  prompted:
  tuned:
"""
MULTILABEL_TEMPLATE = (
    CLASSIFICATION_TEMPLATE.replace("task: classification", "task: multilabel")
    .replace("  num_train_epochs: {epochs}\n", "")
    .replace(  # heads have a default of their own
        _PROMPTED,
        """\
  tuned:                         # a classification head; prompts cannot give several labels
""",
    )
)

QUESTIONS_TEMPLATE = (
    _HEAD.replace("<what>", "questions, ").replace("<task>", "{task}")
    + """\
  # test: "another file"         # default: hold out 20% of the questions
  splitting: {{method: {method}}}
  limit: {{train: 1000, validation: 200, test: 500}}    # raise or remove after a first run

audit:
  leak: error                    # train-test contamination: error, drop or allow{audit}

model: smollm2-135m-instruct     # or a hub name such as meta-llama/Llama-3.2-1B-Instruct

prompt:
  max_length: {max_length}                # tokens; longer contexts are read in overlapping windows
answering: {answering}
{retrieval}"""
    + _TRAINING
    + """\
  num_train_epochs: 1
  per_device_train_batch_size: 8

variants:
{majority}  zero-shot:
  few-shot: {{shots: 2}}
  prompted: {{validation_rows: 40}}
  tuned:
"""
)
