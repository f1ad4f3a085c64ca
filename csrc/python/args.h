/* args.h - arguments of vectorcall methods, without PyArg_Parse on hot paths.
 * Unaware of what the arguments are for. */
#ifndef HUB_PYTHON_ARGS_H
#define HUB_PYTHON_ARGS_H

#include "state.h"

#define HUB_ARGS_MAX 8
#define HUB_TIMEOUT_NONE (-1) /* nanoseconds: for ever */

/* What a method takes beside positional-only arguments. */
typedef struct hub_args_spec {
    const char *function;                /* for messages, without "()" */
    int count;                           /* names in use */
    int positional;                      /* the first so many may come without their name */
    int required;                        /* the first so many must come */
    unsigned char names[HUB_ARGS_MAX];   /* enum hub_name */
} hub_args_spec;

/* values[i] becomes the (borrowed) argument of names[i], NULL where none is given. */
int bnd_args_unpack(hub_state *state, const hub_args_spec *spec, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames, PyObject **values);

/* Seconds or None (or NULL: not given) -> nanoseconds, or HUB_TIMEOUT_NONE. */
int bnd_arg_timeout(PyObject *value, int64_t *ret_ns);
/* The moment that a timeout, counted from now, ends at. */
int64_t bnd_arg_deadline_of(int64_t timeout_ns);
/* Absolute monotonic seconds or None -> the hub_message's deadline_ns. */
int bnd_arg_deadline(PyObject *value, int64_t *ret_ns);
/* An int from 0 to max. */
int bnd_arg_unsigned(PyObject *value, const char *name, uint64_t max, uint64_t *ret);

/* Any C-contiguous buffer. -1: exception that says what would do. */
int bnd_arg_buffer(PyObject *value, const char *function, Py_buffer *ret);

#endif
