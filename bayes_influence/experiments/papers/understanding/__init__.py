"""Koh & Liang (2017), "Understanding black-box predictions via influence functions".

- `loo_logistic`: figure 2, left and middle: leave-one-out of softmax regression by conjugate gradients and by LiSSA.
"""
