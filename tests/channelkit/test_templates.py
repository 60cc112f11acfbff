"""Templates: the user's program over a lead, whose texts stay texts."""

import pytest

from leadctl.channelkit.templates import LABELS, MAX_OUTPUT, check_template, lead_context, never_fails, render
from leadctl.domain.errors import Rejected
from leadctl.domain.model import Answer, Lead
from leadctl.testing.hostile import HOSTILE_LEADS, RENDERED, TEMPLATE
from tests.support.channels import make_lead


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"), ("", ""), ("{{ lead.name }}", "Анна Ким"), ("{{ lead.answers.budget }}", "100 000"),
        ("{{ lead.utm.utm_source }}", "yandex"), ("{{ lead.id }}/{{ lead.external_project_id }}", "42/2"),
        ("{{ lead.created_at.strftime('%Y') }}", "2026"), ("{{ lead.nothing.at.all }}", ""), ("{{ nothing }}", ""),
        ("{% for a in lead.answer_list %}{{ a.question }}={{ a.answer }};{% endfor %}", "budget=100 000;"),
        ("{{ lead.answers['no such'] or 'none' }}", "none"), ("{{ lead.name|upper }}\n", "АННА КИМ\n"),
    ],
)  # fmt: skip
def test_what_a_template_says(source: str, text: str) -> None:
    assert check_template(source) == source
    assert render(source, make_lead()) == text


@pytest.mark.parametrize("source", ["{{ lead.name", "{% for %}", "{% nope %}", "{{ 1 + }}", "{{ lead|nofilter }}"])
def test_what_is_no_template_is_said(source: str) -> None:
    with pytest.raises(ValueError, match="not a valid template"):
        check_template(source)
    with pytest.raises(Rejected, match="the template in settings fails"):
        render(source, make_lead())


@pytest.mark.parametrize(
    "source",
    ["{{ lead.__class__ }}", "{{ lead.name.__class__.__mro__ }}", "{{ lead.answers.__init__.__globals__ }}",
     "{{ ''.__class__.__base__.__subclasses__() }}", "{{ lead.utm.update({'x': 1}) }}", "{{ lead.utm.clear() }}",
     "{{ lead.answer_list.append(1) }}", "{{ cycler.__init__.__globals__.os.popen('id') }}", "{{ 1 / 0 }}",
     "{{ lead.name + 1 }}", "{% include 'x' %}", "{% import 'os' as os %}", "{{ '%s'.__mod__ }}",
     "{{ '{0.__class__}'.format(lead) }}", "{{ range(10 ** 9)|list }}"],
)  # fmt: skip
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    lead = make_lead()
    before = repr(lead)
    try:
        said = render(source, lead)
    except Rejected as error:
        said = f"{error.message} ({error.vendor_code})"
    assert said == "" or said.endswith("(template)")
    assert "class" not in said
    assert repr(lead) == before


def test_the_error_of_a_template_does_not_show_the_lead() -> None:
    with pytest.raises(Rejected) as caught:
        render("{{ lead.name + 1 }}", make_lead(name="canary name"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("html", [False, True])
@pytest.mark.parametrize("name", HOSTILE_LEADS)
def test_a_leads_text_is_never_rendered(name: str, html: bool) -> None:
    lead = make_lead(**HOSTILE_LEADS[name])
    said = render("{{ lead.name }} {{ lead.comment }} {{ lead.answer_list }}", lead, html=html)
    assert RENDERED not in said


def test_plain_text_is_as_it_is_and_html_is_escaped() -> None:
    lead = make_lead(name="<b>&\"' " + TEMPLATE)
    assert render("<i>{{ lead.name }}</i>", lead) == f"<i>{lead.name}</i>"
    assert render("<i>{{ lead.name }}</i>", lead, html=True) == f"<i>&lt;b&gt;&amp;&#34;&#39; {TEMPLATE}</i>"
    assert render("{{ extra }}", lead, html=True, extra="<x>") == "&lt;x&gt;"


def test_output_is_bounded() -> None:
    assert len(render("{% for i in range(90000) %}{{ lead.id }}0{% endfor %}", make_lead())) == MAX_OUTPUT


def test_a_question_twice_keeps_both_in_the_list() -> None:
    lead = make_lead(answers=(Answer("q", "1"), Answer("q", "2")))
    assert render("{{ lead.answers.q }} {{ lead.answer_list|length }}", lead) == "2 2"


def test_every_column_is_there() -> None:
    columns = {"id", "external_entity_id", "external_project_id", "name", "phone", "email", "comment", "page_url",
               "utm", "answers", "created_at"}  # fmt: skip
    assert columns <= set(lead_context(make_lead()))


def test_both_languages_have_the_same_labels() -> None:
    assert set(LABELS["ru"]) == set(LABELS["en"])
    assert all(LABELS[locale][label] for locale in LABELS for label in LABELS[locale])


@pytest.mark.parametrize(
    ("template", "never"),
    [
        ("{{ lead.answers.budget }}", True),
        ("{{ lead.answers['a b'] or lead.name|default('-') }}", True),
        ("{% if lead.utm.utm_source %}a{% else %}{{ lead.__class__.x }}{% endif %}", True),
        ("{{ lead.phone|int }}", False),
        ("{{ 1 / 0 }}", False),
        ("{{ lead.x|default(1, 2, 3) }}", False),
        ("{{ lead.x|default(*lead.comment) }}", False),
        ("{{ lead.x|default(y=1) }}", False),
        ("{{ lead.name[lead.id] }}", False),
        ("{% for a in lead.answer_list %}{{ a }}{% endfor %}", False),
        ("{{ range }}", False),
    ],
)
def test_which_templates_never_fail(template: str, never: bool) -> None:
    assert never_fails(template) is never
    if never:
        render(template, Lead(1))
        render(template, Lead("a", name="x", answers=(Answer("budget", "5"),), utm={"utm_source": "y"}))
