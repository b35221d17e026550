"""The slash commands of a chat: names, help, and what each one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from scope_cpp.errors import UsageError
from scope_cpp.near import nearest, valid_are

from . import views

if TYPE_CHECKING:
    from .talk import Chat

TOPICS = ("settings", "sampling", "system", "messages", "template", "tokens")
_POLICY_FIELDS = ("prefill", "granularity")


class Command(NamedTuple):
    """What it takes, what it does, and the function that does it."""

    usage: str
    help: str
    run: Callable[[Chat, str], None]


def find(name: str) -> Command:
    """Return a command.

    Raises
    ------
    UsageError
        For an unknown one; the message has the nearest names.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = nearest(name, COMMANDS, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join('/' + one for one in near)}?" if near else "see /help"
    raise UsageError(
        f"unknown command /{views.preview(name)}: {meant} "
        "(a message that begins with a slash is written with two)"
    )


def complete(words: Sequence[str]) -> Iterable[str] | None:
    """Return what the next word of a command may be; None for the name of a file."""
    if not words:
        return [f"/{name}" for name in COMMANDS]
    name = words[0][1:]
    if name in ("read", "save", "load"):
        return None
    if name == "show" and len(words) == 1:
        return TOPICS
    if name == "set" and len(words) == 1:
        from .values import names

        return names()
    if name == "set":
        from .values import offered

        found = offered(words[1])
        return found if found is None or len(words) == 2 else ()
    if name == "policy":
        return _policy_words(words[1:])
    return ()


def _policy_words(given: Sequence[str]) -> Iterable[str]:
    """Return names of policies where none is given yet, and KEY=VALUE of those that are."""
    from scope_cpp.engine.settings import DEFAULT_POLICY, GRANULARITIES
    from scope_cpp.policies import decode_policies, example_options, prefill_policies

    policies = decode_policies()
    named = next((word for word in given if word in policies), None)
    words = [] if named else list(policies)
    words += example_options(policies[named or DEFAULT_POLICY])
    words += [f"prefill={name}" for name in prefill_policies()]
    return words + [f"granularity={name}" for name in GRANULARITIES]


# -- the commands


def _help(chat: Chat, rest: str) -> None:
    if rest:
        command = find(rest.lstrip("/"))
        chat.say(f"/{rest.lstrip('/')} {command.usage}".rstrip() + f": {command.help}")
        return
    if chat.width() < 60:
        chat.say("\n".join(f"/{n} {c.usage}".rstrip() + f": {c.help}" for n, c in COMMANDS.items()))
    else:
        heads = {name: f"/{name} {command.usage}".rstrip() for name, command in COMMANDS.items()}
        wide = max(map(len, heads.values()))
        chat.say("\n".join(f"{heads[n]:<{wide}}  {c.help}" for n, c in COMMANDS.items()))
    chat.say(
        "\nEnter sends, Alt-Enter begins a new line. A text between triple quotes may have many "
        "lines, and so may one that is pasted. //text sends /text. Ctrl-C stops an answer, a "
        "second one leaves; so does Ctrl-D."
    )


def _exit(chat: Chat, rest: str) -> None:
    chat.leave(0)


def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.clear()
    chat.attached.clear()
    chat.say("all messages are forgotten but the system's")


def _regen(chat: Chat, rest: str) -> None:
    chat.answer(chat.conversation.regenerate)


def _edit(chat: Chat, rest: str) -> None:
    if rest:
        chat.answer_edited(rest)
        return
    asked = [m["content"] for m in chat.conversation.messages if m["role"] == "user"]
    if not asked:
        raise UsageError("there is no message that could be changed: send one first")
    chat.edit(asked[-1])


def _undo(chat: Chat, rest: str) -> None:
    if chat.attached:
        chat.attached.clear()
        chat.say("taken off: the next message goes without what /read took")
        return
    chat.take_back()


def _read(chat: Chat, rest: str) -> None:
    from .files import path_of, read_text_file

    if not rest:
        raise UsageError("/read needs the name of a text file")
    path = path_of(rest)
    text = read_text_file(path)
    chat.attached.append(text)
    chat.say(f"{path}: {_waiting(chat.attached)} before your next message")


def _waiting(texts: Sequence[str]) -> str:
    """Say how much /read took since the last message that was answered."""
    n = sum(map(len, texts))
    if len(texts) == 1:
        return f"{n} {'character goes' if n == 1 else 'characters go'}"
    return f"now {n} characters of {len(texts)} files go"


def _system(chat: Chat, rest: str) -> None:
    if not rest:
        chat.say(_system_text(chat))
        return
    chat.conversation.set_system(None if rest == "none" else rest)
    chat.say("the conversation begins anew, with this system message" if rest != "none" else
             "the conversation begins anew, without a system message")  # fmt: skip


def _system_text(chat: Chat) -> str:
    messages = chat.conversation.messages
    if messages and messages[0]["role"] == "system":
        return views.messages(messages[:1])
    return "there is no system message: /system TEXT sets one"


def _set(chat: Chat, rest: str) -> None:
    from . import values

    name, _, text = rest.partition(" ")
    if not name:
        chat.say(views.sampling(chat.conversation))
    elif not text.strip():
        raise UsageError(f"/set {name} needs a value, or default")
    else:
        values.change(chat.conversation, name, text.strip())
        chat.say(f"{values.spelled(name)} is {text.strip()} from the next answer on")


def _show(chat: Chat, rest: str) -> None:
    topic, _, text = rest.partition(" ")
    conversation = chat.conversation
    if topic in ("", "settings"):
        chat.say(views.settings(conversation, chat.width()))
    elif topic == "sampling":
        chat.say(views.sampling(conversation))
    elif topic == "system":
        chat.say(_system_text(chat))
    elif topic == "messages":
        chat.say(views.messages(conversation.messages) or "there is no message yet")
    elif topic == "template":
        own = conversation.template or conversation.model.chat_template
        chat.say(views.printable(own) if own else "the model has no chat template")
    elif topic == "tokens":
        asked = [m["content"] for m in conversation.messages if m["role"] == "user"]
        if not text and not asked:
            raise UsageError("/show tokens needs a text")
        chat.say(views.tokens(conversation, text or asked[-1]))
    else:
        raise UsageError(f"/show {topic}{valid_are(topic, TOPICS)}")


def _save(chat: Chat, rest: str) -> None:
    from .files import path_of

    path = path_of(rest) if rest else chat.session
    if path is None:
        raise UsageError("/save needs the name of a file")
    if path.exists() and path not in chat.own_files:
        raise UsageError(f"{path} exists: give another name, or remove it first")
    saved = chat.read_again(lambda: chat.save(path))
    chat.say(f"saved: {path}" if saved else "stopped, nothing is saved")


def _load(chat: Chat, rest: str) -> None:
    from .files import path_of

    if not rest:
        raise UsageError("/load needs the name of a file")
    path = path_of(rest)
    chat.conversation.load(path)
    chat.own_files.add(path)
    chat.attached.clear()
    chat.greet_again()


def _stats(chat: Chat, rest: str) -> None:
    chat.say(views.stats(chat.conversation))


def _policy(chat: Chat, rest: str) -> None:
    conversation = chat.conversation
    if rest:
        changes: dict[str, object] = {}
        options = []
        for word in rest.split():
            key, equals, value = word.partition("=")
            if not equals:
                changes["policy"] = word
            elif key in _POLICY_FIELDS:
                changes[key] = value
            else:
                options.append(word)
        # options belong to the policy that they were given with
        if options or "policy" in changes:
            changes["options"] = tuple(options)
        conversation.set_policy(**changes)
    chat.say(("from the next answer on: " if rest else "") + views.policy(conversation))


def _budget(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.set_budget(rest)
    chat.say(views.budget(chat.conversation))


def _cache(chat: Chat, rest: str) -> None:
    chat.say(views.cache(chat.conversation, chat.width()))


def _heatmap(chat: Chat, rest: str) -> None:
    from . import heatmap

    conversation = chat.conversation
    pools = conversation.pools()
    if not pools:
        raise UsageError("there is nothing in the cache yet")
    what, kept = heatmap.choose(conversation, rest.split())
    chat.say(heatmap.draw(what, kept, pools, chat.width(), chat.shades()))


COMMANDS = {
    "help": Command("[COMMAND]", "this list", _help),
    "exit": Command("", "leave; so does Ctrl-D", _exit),
    "clear": Command("", "forget all messages but the system's", _clear),
    "regen": Command("", "write the last answer anew", _regen),
    "edit": Command("[TEXT]", "change the last message and have it answered anew", _edit),
    "undo": Command("", "take off what /read took; else take back the last message", _undo),
    "read": Command("FILE", "put a text file before the next message", _read),
    "system": Command("[TEXT|none]", "show or set the system message; begins anew", _system),
    "set": Command("[NAME VALUE]", "show or set sampling, n-predict and stop", _set),
    "show": Command("[TOPIC]", f"show one of {', '.join(TOPICS)}", _show),
    "save": Command("[FILE]", "save the conversation", _save),
    "load": Command("FILE", "take up a saved conversation in place of this one", _load),
    "stats": Command("", "show what the last answer and the memory take", _stats),
    "policy": Command("[NAME] [KEY=VALUE …]", "show or set what is evicted", _policy),
    "budget": Command("[CELLS]", "show or set how many cells there are", _budget),
    "cache": Command("", "show pools, cells and bytes", _cache),
    "heatmap": Command("[LAYER [HEAD]]", "show which positions stayed", _heatmap),
}
