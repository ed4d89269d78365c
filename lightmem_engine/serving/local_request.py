"""A chat request as the model in process understands it: OpenAI's fields, checked, none silently ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightmem_engine.errors import InvalidInput
from lightmem_engine.serving.errors import sentences
from lightmem_engine.serving.schemas import MemoryBody
from lightmem_engine.types import Prompt, Sampling

ROLES = ("system", "developer", "user", "assistant", "tool")
ANY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": True}
# Fields of OpenAI and of vLLM that would change the answer and that this backend does not do.
_CANNOT = (
    "audio",
    "best_of",
    "function_call",
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "logit_bias",
    "min_p",
    "repetition_penalty",
    "structured_outputs",
    "top_k",
    "use_beam_search",
    "web_search_options",
)


class _Given(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Function(_Given):
    """A function the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Given):
    """OpenAI's function tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Given):
    """The name alone."""

    name: str


class ToolChoice(_Given):
    """One function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Given):
    """OpenAI's `json_schema`."""

    name: str = "answer"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Given):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Given):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class ChatBody(_Given):
    """`POST /v1/chat/completions`. Fields that are not listed pass through or are ignored, as OpenAI's servers do."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[str] | None = None
    user: str | None = None
    memory: MemoryBody | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What the model is asked.

    forced: the answer is a tool call, written as JSON without marks.   one_call: at most one call.
    """

    prompt: Prompt
    sampling: Sampling
    model: str | None
    n: int
    stream: bool
    include_usage: bool
    has_tools: bool
    forced: bool
    one_call: bool


def read_ask(body: Mapping[str, Any] | None, messages: Sequence[Mapping[str, Any]] | None) -> Ask:
    """messages: in place of the body's. Raises `InvalidInput` that names the field."""
    try:
        given = ChatBody.model_validate(body)
    except ValidationError as error:
        raise InvalidInput(sentences(error.errors())) from error
    _refuse_what_we_cannot(given)
    _check_messages(given.messages)
    tools, forced = _tools(given)
    schema = _call_schema(forced) if forced else _answer_schema(given.response_format)
    return Ask(
        prompt=Prompt(
            tuple(given.messages if messages is None else messages),
            schema,
            tuple(tool.model_dump(exclude_none=True) for tool in tools),
            given.chat_template_kwargs or {},
        ),
        sampling=_sampling(given),
        model=given.model,
        n=given.n or 1,
        stream=bool(given.stream),
        include_usage=bool(given.stream_options and given.stream_options.include_usage),
        has_tools=bool(tools),
        forced=bool(forced),
        one_call=given.parallel_tool_calls is False,
    )


def _sampling(given: ChatBody) -> Sampling:
    if given.top_logprobs is not None and not given.logprobs:
        raise InvalidInput("top_logprobs needs logprobs = true")
    return Sampling(
        max_tokens=given.max_completion_tokens or given.max_tokens,
        temperature=1.0 if given.temperature is None else given.temperature,
        top_p=1.0 if given.top_p is None else given.top_p,
        seed=given.seed,
        stop=(given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ()),
        presence_penalty=given.presence_penalty or 0.0,
        frequency_penalty=given.frequency_penalty or 0.0,
        top_logprobs=(given.top_logprobs or 0) if given.logprobs else None,
    )


def _refuse_what_we_cannot(given: ChatBody) -> None:
    extra = given.model_extra or {}
    asked = [name for name in _CANNOT if extra.get(name) not in (None, {}, [], False)]
    if given.modalities not in (None, ["text"]):
        asked.append("modalities")
    if asked:
        raise InvalidInput(f"the model in this process does not support {', '.join(asked)}")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role")
        if role not in ROLES:
            raise InvalidInput(f"{where}.role must be one of {', '.join(ROLES)}")
        content = message.get("content")
        if content is None and not (role == "assistant" and message.get("tool_calls")):
            raise InvalidInput(f"{where}.content is missing")
        if isinstance(content, list):
            for place, part in enumerate(content):
                kind = part.get("type") if isinstance(part, dict) else None
                if kind != "text" or not isinstance(part.get("text"), str):
                    raise InvalidInput(
                        f"{where}.content[{place}] must be a text part; the model in this process reads text only"
                    )
        elif content is not None and not isinstance(content, str):
            raise InvalidInput(f"{where}.content must be text or a list of parts")
        calls = message.get("tool_calls")
        if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            raise InvalidInput(f"{where}.tool_calls must be a list of objects")


def _tools(given: ChatBody) -> tuple[list[Tool], list[Tool]]:
    """The tools to show to the model, and those of which it must call one."""
    tools = given.tools or []
    choice = given.tool_choice
    if isinstance(choice, ToolChoice):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            raise InvalidInput(f"tool_choice names {choice.function.name!r}, which is not among tools")
        return tools, named
    if choice == "required":
        if not tools:
            raise InvalidInput("tool_choice = required needs tools")
        return tools, tools
    return ([], []) if choice == "none" else (tools, [])


def _call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON Schema of a call of one of the tools; shared definitions move to its root, where `$ref` looks."""
    definitions: dict[str, Any] = {}
    calls = []
    for tool in tools:
        parameters = dict(tool.function.parameters or ANY_OBJECT)
        for name in ("$defs", "definitions"):
            definitions.setdefault(name, {}).update(parameters.pop(name, {}))
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls} | {name: found for name, found in definitions.items() if found}


def _answer_schema(response_format: ResponseFormat | None) -> Mapping[str, Any] | None:
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return ANY_OBJECT
    if response_format.json_schema is None:
        raise InvalidInput("response_format.json_schema is missing")
    return response_format.json_schema.schema_
