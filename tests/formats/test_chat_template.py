"""Chat templates: what honest ones need works, what hostile ones want does not, and quickly."""

import threading
import time
import tracemalloc

import pytest

from abaci.errors import FileFormatError, UsageError
from abaci.formats.chat_template import CHATML, MAX_SOURCE_CHARACTERS, ChatTemplate
from abaci.formats.template_meter import TemplateLimits

USER = [{"role": "user", "content": "Hi"}]


def render(source, messages=USER, **variables):
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, **variables)


def test_chatml():
    assert render(CHATML) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for i in range(4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "013"),
        (
            "{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}",
            "0TrueTrue1",
        ),
        ("{{ {'a': 'é<>&', 'b': [1, none]} | tojson }}", '{"a": "é<>&", "b": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ 1 in (1, 2) }}", "12True"),
        ("{% for k, v in {'a': 1}.items() %}{{ k ~ '=' ~ v }}{% endfor %}", "a=1"),
        ("{{ 'a</think>b'.split('</think>')[-1].strip('\\n') | trim | upper }}", "B"),
        ("{{ ['a', 'b'] | join(', ') }}{{ ', '.join(['c', 'd']) }}{{ 'aa'.replace('a', 'b') }}", "a, bc, dbb"),
        ("{{ '%s is %d' % ('x', 3) }}{{ '{} {:>3}'.format(1, 2) }}", "x is 31   2"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}", "['Hi']"),
        ("{{ messages[::-1][0]['content'] }}{{ messages[0].content[1:] }}", "Hii"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ f('a') }}", "[1][a]"),
        (
            "{% macro f(x) %}{{ x }}{% endmacro %}"
            "{% for i in [1, 2] %}{% set ns = namespace(a=i) %}{{ f(ns.a) }}{% endfor %}",
            "12",
        ),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ tools is none }}{{ missing is defined }}{{ missing }}", "TrueFalse"),
        ("{{ 'x' if messages is iterable and messages is not string and messages is not mapping }}", "x"),
        ("{% filter upper %}a{% endfilter %}{% set x %}b{% endset %}{{ x }}", "Ab"),
        ("{{ raise_exception.__globals__ }}{{ ''.__class__ }}", ""),
        ("{{ (5).real }}{{ 'x'.upper.__self__ }}{{ (range(9) | map('string')).gi_frame }}", ""),
        ("{{ missing._undefined_exception }}{{ raise_exception.func }}{{ dict.func }}", ""),
        ("{% macro f() %}{% endmacro %}{{ f._func }}{% for x in [1] %}{{ loop._iterable }}{% endfor %}", ""),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ dict(given=1, meter=2, self=3) }}", "{'given': 1, 'meter': 2, 'self': 3}"),
        ("{{ '%(text)s%(self)s' | format(text='x', self='y') }}{{ '{self}'.format(self=1) }}", "xy1"),
        ("{% for m in messages %}{{ m.content.replace('H', 'h') ~ ''.join(['a', 'b']) }}{% endfor %}", "hiab"),
        ("{% for part in 'a b  c'.split() %}{{ loop.index }}{{ part }}{% endfor %}", "1a2b3c"),
        ("{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', maxsplit=1) }}", "['a', 'b,c']['a,b', 'c']"),
        (
            "{{ 'a b'.rsplit() }}{{ 'a\nb'.splitlines() }}{{ ' a '.strip() }}{{ 'xa'.lstrip('x') }}",
            "['a', 'b']['a', 'b']aa",
        ),
        ("{{ 'In 2024: {} {a!r} {:>3}'.format(1, 2, a='b') }}", "In 2024: 1 'b'   2"),
        ("{{ ('{}&' | safe).format('<') }}{{ '<' | e }}", "&lt;&&lt;"),
        ("{{ dict([('a', 1)], b=2) }}{{ dict({'a': 1}).get('a') }}{{ {1: {2: 3}} }}", "{'a': 1, 'b': 2}1{1: {2: 3}}"),
        ("{{ namespace({'a': 1}).a }}{% set x %}{{ 1 < 2 < 3 }}{{ 2 in [1] }}{% endset %}{{ x }}", "1TrueFalse"),
        ("{% for k, g in [{'a': 1}, {'a': 2}] | groupby('a') %}{{ k }}{{ g | length }}{% endfor %}", "1121"),
        ("{% for g in [{'a': 1}] | groupby('a') %}{{ g.grouper }}{{ g.list }}{% endfor %}", "1[{'a': 1}]"),
        ("{% macro f(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ f(*[1, 2]) }}{{ f.name }}", "1(2,)f"),
        ("{% for x in [1, [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        (
            "{% for x in [1, 2] %}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.changed(1) }}{% endfor %}",
            "aTrueb1False",
        ),
        (
            "{% for x in [1, 2] | reverse %}{{ x }}{% endfor %}{{ [3, 1] | sort }}{{ 'ab' | list }}",
            "21[1, 3]['a', 'b']",
        ),
        ("{{ [1, 2, 2].count(2) }}{{ (1, 2).index(2) }}{{ [1].copy() }}{{ {'a': 1}.keys() | list }}", "21[1]['a']"),
    ],
)
def test_honest_templates(source, expected):
    assert render(source) == expected


def test_further_variables_reach_the_template():
    assert render("{{ enable_thinking }}{{ tools[0].name }}", enable_thinking=False, tools=[{"name": "f"}]) == "Falsef"


def test_raise_exception_is_the_users_error():
    with pytest.raises(UsageError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_failing_expression_is_reported():
    with pytest.raises(UsageError, match="TypeError"):
        render("{{ 'a' + 1 }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ a | nosuchfilter }}",
        "{% unknown %}",
        "{{ " + "(" * 5000,
        "{% break %}",
        "x" * (MAX_SOURCE_CHARACTERS + 1),
    ],
)
def test_broken_templates_do_not_compile(source):
    with pytest.raises(FileFormatError):
        ChatTemplate(source)


def repeated(start, step):
    """A template that starts with namespace(`start`) and sets its x to `step` sixty times."""
    return f"{{% set ns = namespace({start}) %}}{{% for i in range(60) %}}{{% set ns.x = {step} %}}{{% endfor %}}"


ENDLESS = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
COLLIDING = 2**61 - 1
"""Its multiples have one hash: a set or dict of n of them takes n * n steps."""
DOUBLED_LIST = repeated("x=['aaaaaaaaaa']", "[ns.x, ns.x]")


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        "{% for a in range(90000) %}{% set x = range(90000) | list %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
        repeated("x='ab'", "ns.x ~ ns.x"),
        repeated("x='ab'", "ns.x + ns.x"),
        repeated("x=['ab']", "ns.x + ns.x"),
        repeated("x='aaaa'", "ns.x.replace('a', ns.x)"),
        repeated("x='aaaa'", "ns.x | replace('a', ns.x)"),
        repeated("x='aaaa'", "ns.x.join(ns.x)"),
        repeated("x='aaaa'", "ns.x | join(ns.x)"),
        DOUBLED_LIST + "{{ ns.x }}",
        DOUBLED_LIST + "{{ ns.x | tojson }}",
        DOUBLED_LIST.replace("[ns.x, ns.x]", "(ns.x, ns.x)"),
        DOUBLED_LIST.replace("[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}"),
        DOUBLED_LIST.replace("[ns.x, ns.x]", "dict(a=ns.x, b=ns.x)"),
        DOUBLED_LIST.replace("[ns.x, ns.x]", "namespace(a=ns.x, b=ns.x)") + "{{ ns.x }}",
        "{% macro f() %}{{ f(varargs, varargs) }}{% endmacro %}{{ f('a') }}",
        "{{ 'x' * 10000000000 }}",
        "{{ 10000000000 * [1] }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'a\n' | indent(9999999999) }}",
        "{{ [1] | tojson(indent=999999999) }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 'x'.center(9999999999) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ lipsum(99999999) }}",
        "{% include 'x' %}",
        "{{ messages.__init__.__globals__ }}",
        "{{ (messages | map('attr', '__class__') | list) }}",
        "{{ (5).to_bytes(100000000, 'big') | length }}",
        "{{ (5.0).hex() }}",
        "{{ true.from_bytes([1], 'big') }}",
        "{{ 'x'.encode() }}",
        "{{ '{:9}'.format_map({}) }}",
        f"{{{{ {{}}.fromkeys(range(0, {COLLIDING * 50000}, {COLLIDING})) | length }}}}",
        f"{{{{ range(0, {COLLIDING * 50000}, {COLLIDING}) | unique | list | length }}}}",
        "{{ (range(9) | map('string')).throw(1) }}",
        "{{ range(9).index(2) }}",
        "{{ namespace.mro() }}",
        "{{ namespace([('a', 1)]) }}",
        "{{ ('{0}' * 10000).format('x' * 60000) | length }}",
        "{{ ('%(a)s' * 9000) % {'a': 'x' * 60000} }}",
        "{{ ('%(a)s' * 9000) | format(a='x' * 60000) }}",
        "{{ ('a' * 60000).rfind('ab' + 'a' * 30000) }}",
        "{{ ('a' * 60000).rsplit('ab' + 'a' * 30000) }}",
        "{{ ('a' * 60000).strip('b' * 60000 ~ 'a') }}",
        "{{ ('a' * 60000) | trim('b' * 60000 ~ 'a') }}",
        "{{ (('x' ~ LINE) * 10000) | indent(60000) }}".replace("LINE", r"'\u2028'"),
        "{{ ('a ' * 30000).split() | length }}",
        "{{ ('a' * 60000).rsplit('a') | length }}",
        r"{{ ('a\n' * 30000).splitlines() | length }}",
        "{{ ('a' * 60000) | list | length }}",
        "{{ ('a' * 60000) | sort | length }}",
        "{{ dict(*('a' * 60000)) }}",
        "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
        f"{{% set x %}}{{% for i in range(8000) %}}{'x' * 60000}{{% endfor %}}{{% endset %}}",
        f"{{% filter length %}}{{% for i in range(8000) %}}{'x' * 60000}{{% endfor %}}{{% endfilter %}}",
        f"{{% for i in [0] recursive %}}{'x' * 60000}"
        "{% if i == 0 %}{{ loop(range(1, 8000)) }}{% endif %}{% endfor %}",
        "{% set x = 'a' * 60000 %}" + "".join(f"{{% set a{i} = x[1:] %}}" for i in range(100)),
        repeated("x=[1]", "[ns.x]") + "{{ (ns.x * 60) | tojson(indent=16) | length }}",
        "{{ ('f' * 60000) | int(0, 16) // 3 }}",
        "{{ strftime_now('%c' * 30000) | length }}",
    ],
)
def test_hostile_templates_are_stopped_soon(source):
    limits = TemplateLimits(max_characters=1 << 16, max_items=1 << 12, max_cost=1 << 13, max_seconds=60)
    tracemalloc.start()
    begin_seconds = time.thread_time()
    try:
        with pytest.raises((FileFormatError, UsageError)):
            ChatTemplate(source, limits=limits).render(USER)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert time.thread_time() - begin_seconds < 5


def test_a_search_that_makes_nothing_is_stopped_by_the_clock():
    limits = TemplateLimits(max_seconds=0.2)
    searches = "{% if 'abb' in text %}{% endif %}" * 2000
    for source in (searches, "{{ (['abb'] * 100000) | select('in', text) | list }}"):
        with pytest.raises(FileFormatError, match="runs too long"):
            ChatTemplate("{% set text = 'ab' * 1000000 %}" + source, limits=limits).render(USER)


def test_what_a_template_says_when_it_refuses_is_cut_short():
    with pytest.raises(UsageError) as caught:
        render("{{ raise_exception('x' * 100000) }}")
    assert len(caught.value.message) < 2000


def test_the_default_limits_stop_an_endless_loop():
    begin_seconds = time.thread_time()
    with pytest.raises(FileFormatError, match="runs too long"):
        render(ENDLESS)
    assert time.thread_time() - begin_seconds < 15


def test_the_deadline_stops_what_the_count_does_not():
    limits = TemplateLimits(max_cost=1 << 40, max_seconds=0.1)
    with pytest.raises(FileFormatError, match="runs too long"):
        ChatTemplate(
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", limits=limits
        ).render(USER)


def test_the_limits_leave_room_for_a_long_conversation():
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 500} for i in range(1000)]
    assert len(render(CHATML, messages)) > 2_500_000


def test_a_stopped_template_can_be_used_again():
    template = ChatTemplate("{% for m in messages %}{% for a in range(100000) %}{{ a }}{% endfor %}{% endfor %}")
    with pytest.raises(FileFormatError):
        template.render([{}] * 100)
    assert template.render([]) == ""


def test_threads_share_a_template():
    template = ChatTemplate(CHATML)
    results = []
    threads = [
        threading.Thread(target=lambda i=i: results.append((i, template.render([{"role": "user", "content": str(i)}]))))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(i, f"<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n") for i in range(8)]
