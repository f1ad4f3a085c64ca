/* parent.c - a plugin's process ends with the process that started it, whatever it is doing.
 *
 * The kernel tells of the parent's death by a signal, also while a C call holds the GIL and no
 * Python code can run. The handler gives the process some seconds to leave in good order (it sees
 * its host's doorbell hang up), then SIGALRM ends it. Knows nothing of hubs.
 *
 * The signal is tied to the *thread* that started the process: hosts start theirs from one thread
 * that lives as long as they do. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "state.h"

/* Written before the handler is installed, never after: the handler may run at any moment. */
static volatile sig_atomic_t grace_seconds;

static void on_parent_death(int number)
{
    (void)number;
    int error = errno;
    struct sigaction end = {.sa_handler = SIG_DFL};
    sigaction(SIGALRM, &end, NULL);
    alarm((unsigned)grace_seconds);
    errno = error;
}

/* Whether the parent is the one that was expected, and its end will be told. */
static int arm(pid_t parent, int grace)
{
    int number = SIGRTMAX - 1;
    struct sigaction action = {.sa_handler = on_parent_death, .sa_flags = SA_RESTART};

    grace_seconds = grace;
    if (sigaction(number, &action, NULL) < 0 || prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) < 0)
        return -errno;
    /* It may have ended before the kernel was told. */
    return getppid() == parent;
}

PyObject *bnd_die_with_parent_method(PyObject *module, PyObject *args)
{
    (void)module;
    int parent = 0, grace = 0;

    if (!PyArg_ParseTuple(args, "ii:die_with_parent", &parent, &grace))
        return NULL;
    if (grace < 1) {
        PyErr_Format(PyExc_ValueError, "die_with_parent: grace must be at least 1 s, not %d",
                     grace);
        return NULL;
    }
    if (parent == 0) {
        /* Only if whoever started this process has asked for it already. */
        int number = 0;
        if (prctl(PR_GET_PDEATHSIG, &number, 0, 0, 0) < 0 || number == 0)
            Py_RETURN_FALSE;
        parent = (int)getppid();
    }
    int armed = arm((pid_t)parent, grace);
    if (armed < 0) {
        errno = -armed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(armed);
}
