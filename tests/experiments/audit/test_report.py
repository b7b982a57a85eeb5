from bayes_influence.experiments.audit.report import audit_figure, printed_audit


def test_a_report_holds_every_part(found):
    titles = [str(table.title) for table in printed_audit(found)]
    assert titles == [
        "estimated change of the test loss against",
        "where retraining and estimate part",
        "curvature in the selected parameters",
        "where in the spectrum the scores come from",
    ]
    assert [table.row_count for table in printed_audit(found)] == [6, 5, 2, 4]
    figure = audit_figure(found, "a network")
    assert found.verdict.sentence in figure.get_suptitle()
