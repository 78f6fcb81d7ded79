/* The one macro that forms names: f(f32) is f_f32. */
#ifndef LS_MACROS_H
#define LS_MACROS_H

#define LS_JOIN_EXPANDED(a, b) a##_##b
#define LS_JOIN(a, b) LS_JOIN_EXPANDED(a, b)

#endif
