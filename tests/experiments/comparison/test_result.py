import html


def test_a_comparison_is_shown_in_a_line_and_in_a_notebook(compared):
    schemes = "none, weight-decay, swa, weight-decay+swa, bnn"
    assert repr(compared) == f"Comparison({schemes}; 1 network, test example 83, in {compared.folder})"
    page = compared._repr_html_()
    assert page.count("<tr") == 1 + len(compared.summary)
    assert "<td>bnn (posterior-mean)</td>" in page
    assert all(html.escape(finding) in page for finding in compared.findings)
