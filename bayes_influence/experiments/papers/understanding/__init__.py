"""Koh & Liang (2017), "Understanding black-box predictions via influence functions".

- `loo_logistic`: figure 2, left and middle: leave-one-out of softmax regression by conjugate gradients and by LiSSA.
- `loo_cnn`: figure 2, right: leave-one-out of whole convolutional networks, those of `convolutions`.
- `smooth_hinge`: figure 3: a support vector machine, by smooth approximations of its loss.
- `two_models`: figure 4: what two models rely on for one test image; drawn by `two_models_figure`.
- `mislabelled`: figure 6, flipped labels, by the scores of `label_scores`; drawn by `mislabelled_figure`.
- `training_attack`: section 5.2, training images moved until a test prediction turns.
- `domain_mismatch`: section 5.3, a sub-population that is almost gone, on the tables of `domain_tables`.
"""
