"""Closed forms and dense float64 references that several rooms are held against, none of them built on the library."""

import numpy as np


def softmax_regression_minimum(inputs, targets, weights, decay, n_classes, steps=50):
    """argmin of (1/n) sum_i w_i CE_i(W x_i + b) + decay/2 (||W||^2 + ||b||^2), as (W, b): Newton with the closed-form
    gradient (P - Y)' diag(w) X / n and Hessian blocks X' diag(w (p_c [c = d] - p_c p_d)) X / n, in numpy float64.
    """
    x = np.hstack([np.asarray(inputs), np.ones((len(inputs), 1))])
    w = np.asarray(weights)
    y = np.eye(n_classes)[np.asarray(targets)]
    n, d = x.shape
    theta = np.zeros((n_classes, d))
    for _ in range(steps):
        logits = x @ theta.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = ((p - y) * w[:, None]).T @ x / n + decay * theta
        hessian = np.einsum("n,nc,cd,ni,nj->cidj", w, p, np.eye(n_classes), x, x)
        hessian -= np.einsum("n,nc,nd,ni,nj->cidj", w, p, p, x, x)
        hessian = hessian.reshape(theta.size, theta.size) / n + decay * np.eye(theta.size)
        theta = theta - np.linalg.solve(hessian, gradient.ravel()).reshape(theta.shape)
    return theta[:, :-1], theta[:, -1]
