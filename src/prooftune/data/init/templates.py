"""The recipes that ``prooftune init`` starts from."""

MANY_TRUNCATED = (
    "\n  max_truncated: 1.0             # share of texts that may be cut; 0.2 unless said"
)

RETRIEVAL_COMMENT = """
# retrieval:                     # show passages of your documents beside the questions (PDF, HTML, Markdown, text, JSON)
#   documents: documents         # then add variants such as  with-passages: {kind: zero-shot, context: retrieved}
#   passages: 3
"""

_HEAD = """\
# {file}: <what>tuned and compared with simpler ways.
#
#   prooftune check {recipe}     audits the data and estimates time and memory
#   prooftune run {recipe}       runs everything; the report ends up in runs/{name}/report.html
name: {name}
task: <task>
seed: 0

data:
{data}
"""

_LEARNING = """
lora: {{r: 16, lora_alpha: 32, target_modules: all-linear}}
training:                        # transformers.TrainingArguments fields
  learning_rate: 1e-3            # for a small model; 2e-4 for 1B parameters and more
"""

CLASSIFICATION_TEMPLATE = (
    _HEAD.replace("<what>", "").replace("<task>", "classification")
    + """\
  # test: "another file"         # without one, 20% of the rows are set aside, each label in its share
  # validation: "another file"   # without one, 10% of the rest
  limit: {{train: 2000, validation: 300, test: 1000}}   # raise or remove it when the first run looks right

audit:
  leak: error                    # a training text that is also a test text: error, drop or allow{audit}

model: smollm2-135m-instruct     # or a hub name such as meta-llama/Llama-3.2-1B, or a local folder

prompt:
  max_length: {max_length}                # tokens; longer texts are shortened and counted
"""
    + _LEARNING
    + """\
  num_train_epochs: 2
  per_device_train_batch_size: 16

variants:
  majority:
  tfidf:
  zero-shot:
  few-shot: {{shots: 4}}
  prompted:
  tuned:
"""
)

QUESTIONS_TEMPLATE = (
    _HEAD.replace("<what>", "questions, ").replace("<task>", "{task}")
    + """\
  # test: "another file"         # without one, 20% of the questions are set aside
  splitting: {{method: {method}}}
  limit: {{train: 1000, validation: 200, test: 500}}    # raise or remove it when the first run looks right

audit:
  leak: error                    # a training question that is also a test question: error, drop or allow

model: smollm2-135m-instruct     # or a hub name such as meta-llama/Llama-3.2-1B-Instruct, or a local folder

prompt:
  max_length: 512                # tokens; longer contexts are read in overlapping windows
answering: {answering}
{retrieval}"""
    + _LEARNING
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
