//! What a guest of a profile may see at most: values, limits, masks, rules.
