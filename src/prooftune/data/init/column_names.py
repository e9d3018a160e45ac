"""Words in the names of columns that tell what a column is, in several languages."""

from __future__ import annotations

import re
from collections.abc import Sequence

LABEL_WORDS = {
    **dict.fromkeys(("label", "labels", "target", "class", "category", "gold"), 3.0),
    **dict.fromkeys(("sentiment", "intent", "topic", "emotion", "polarity", "stance"), 3.0),
    **dict.fromkeys(("y", "rating", "stars", "score", "tag", "tags", "genre", "relation"), 2.0),
    **dict.fromkeys(("overall",), 2.0),
    **dict.fromkeys(
        ("kategorie", "klasse", "catégorie", "étiquette", "categoría", "etiqueta"), 3.0
    ),
    **dict.fromkeys(("categoria", "classe", "категория", "метка", "класс", "тема"), 3.0),
    **dict.fromkeys(
        ("标签", "类别", "分类", "情感", "標籤", "類別", "ラベル", "カテゴリ", "분류"), 3.0
    ),
    **dict.fromkeys(("bewertung", "nota", "оценка", "评分", "評分", "評価", "평점"), 2.0),
    **dict.fromkeys(("type", "verdict", "annotation", "toxic", "spam", "subject", "answer"), 1.0),
    **dict.fromkeys(("priority", "department", "section", "queue", "decision", "language"), 0.7),
}
"""Words in a column's name that suggest a label, with their weights."""
LABEL_NAMES = {word for word, weight in LABEL_WORDS.items() if weight >= 2}
"""Names that are taken for the label's even if its values are unusual."""
RATING_WORDS = {"rating", "ratings", "star", "stars", "score", "scores", "grade", "points"}
RATING_WORDS |= {"satisfaction", "level", "severity", "overall", "quality", "priority"}
"""Words in a column's name that suggest values on a scale."""
METADATA_WORDS = {
    **dict.fromkeys(("gender", "sex", "age", "birth", "country", "city", "state", "region"), -2.0),
    **dict.fromkeys(("date", "time", "year", "month", "day", "created", "updated"), -2.0),
    **dict.fromkeys(("id", "uid", "uuid", "guid", "index", "idx", "row", "hash", "key"), -3.0),
    **dict.fromkeys(("split", "fold", "set", "partition", "test", "train", "dev"), -3.0),
    **dict.fromkeys(("url", "link", "email", "phone", "user", "author", "name", "source"), -1.5),
    **dict.fromkeys(("status", "channel", "version", "platform", "device", "annotator"), -1.0),
    **dict.fromkeys(("count", "length", "len", "num", "number", "price", "amount"), -1.5),
    # Which product a review is about can be predicted from its text, often better than its stars.
    **dict.fromkeys(("asin", "sku", "isbn", "ean", "barcode"), -3.0),
    **dict.fromkeys(("helpful", "useful", "funny", "cool", "vote", "votes", "upvotes"), -2.0),
    **dict.fromkeys(("likes", "retweets", "verified", "reviewer"), -1.5),
    **dict.fromkeys(
        ("geschlecht", "alter", "sexe", "sexo", "edad", "genere", "пол", "возраст"), -2.0
    ),
    **dict.fromkeys(
        ("性别", "年龄", "性別", "年齢", "성별", "나이", "datum", "fecha", "дата", "日期"), -2.0
    ),
    **dict.fromkeys(("nr", "номер", "编号", "番号", "番號", "번호", "numéro", "número"), -3.0),
    **dict.fromkeys(("confidence", "probability", "prob", "weight", "agreement"), -2.0),
}
TEXT_WORDS = {
    **dict.fromkeys(("text", "sentence", "content", "review", "body", "message", "article"), 3.0),
    **dict.fromkeys(("tweet", "comment", "utterance", "post", "document", "abstract"), 3.0),
    **dict.fromkeys(("nachricht", "kommentar", "texte", "commentaire", "texto", "comentario"), 3.0),
    **dict.fromkeys(("testo", "текст", "отзыв", "сообщение", "内容", "文本", "评论", "內容"), 3.0),
    **dict.fromkeys(("本文", "テキスト", "レビュー", "내용", "리뷰", "텍스트", "نص", "टेक्स्ट"), 3.0),
    **dict.fromkeys(("description", "headline", "title", "question", "query", "prompt"), 2.0),
    **dict.fromkeys(("premise", "hypothesis", "claim", "evidence", "passage", "context"), 2.0),
    **dict.fromkeys(("subject", "summary", "transcript", "complaint", "feedback", "note"), 1.5),
    **dict.fromkeys(("narrative", "reason", "input", "instruction", "word", "paragraph"), 1.5),
}
PAIRS = (
    ("premise", "hypothesis"),
    ("context", "hypothesis"),
    ("text", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("question_1", "question_2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
    ("claim", "evidence"),
    ("context", "response"),
    ("anchor", "positive"),
    ("text", "text_pair"),
    ("sentence", "sentence_pair"),
    ("hypothesis", "reference"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("query", "response"),
)
"""Names of columns that only together make an input."""
_MEMBERS = {
    "number": r"(?<!\d)\d(?!\d)",
    "letter": r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])|(?<=[a-z])[A-J](?![A-Za-z])",
    "side": r"(?i)(?<![A-Za-z])(left|right|first|second)(?![A-Za-z])",
}
"""What tells the two texts of a pair apart in the names of their columns."""
TOGETHER = (
    ("title", "headline", "subject"),
    (
        "text",
        "content",
        "body",
        "description",
        "article",
        "abstract",
        "short_description",
        "message",
        "review",
        "overview",
    ),
)
"""A heading and its text, both of which are read."""
SPLIT_VALUES = {"train", "training", "test", "testing", "validation", "valid", "val", "dev"}
GROUP_WORDS = {"author", "user", "speaker", "document", "doc", "article", "conversation", "thread"}
GROUP_WORDS |= {"patient", "customer", "session", "dialogue", "dialog", "book", "case"}


def name_families(names: Sequence[str]) -> list[dict[str, str]]:
    """Names that differ in a number, letter or side only, as member -> name: option_a and option_b
    are ``{"a": "option_a", "b": "option_b"}``."""
    families: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for family, members in _MEMBERS.items():
            for match in re.finditer(members, name):
                rest = name[: match.start()] + "*" + name[match.end() :]
                families.setdefault((family, rest.lower()), {})[match[0].lower()] = name
    return [group for group in families.values() if len(group) > 1]
