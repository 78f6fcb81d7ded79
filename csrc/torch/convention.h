// What tells one convention from another: all that the glue asks of them, and nowhere by name. Knows no tensor.
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <iterator>

namespace ls_loss {

struct Convention {
    const char *name;
    bool is_native;           // F.cross_entropy computes it, where there is no prior
    bool takes_probabilities; // a target of the logits' shape holds probabilities
    bool bounds_smoothing;    // label_smoothing must be in [0, 1]
    bool weights_smoothing;   // class weights are part of s
    bool smooths_ignored;     // ignored rows have a beta too, and `mean` divides that part by the number of all rows
};

// By the number that the schema has for them, that of ls_convention.
inline constexpr Convention conventions[] = {
    {.name = "torch",
     .is_native = true,
     .takes_probabilities = true,
     .bounds_smoothing = true,
     .weights_smoothing = true,
     .smooths_ignored = false},
    {.name = "fastai",
     .is_native = false,
     .takes_probabilities = false,
     .bounds_smoothing = false,
     .weights_smoothing = false,
     .smooths_ignored = true},
};

inline const Convention &convention_of(int64_t number) {
    TORCH_CHECK_VALUE(number >= 0 && number < std::ssize(conventions), number, " is not a valid value for convention");
    return conventions[number];
}

} // namespace ls_loss
