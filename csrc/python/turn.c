/* turn.c - _core.Turn: which of several threads reads a transport for all of them.
 *
 * Knows nothing of transports.  `with turn as mine:` never waits; whoever leaves wakes
 * the next one in the queue, or else the standby, in the same call that frees the turn:
 * a signal handler of Python may raise between any two bytecodes, and a turn that nobody
 * has and nobody was told of would stop everybody.  A thread may take a turn that it has
 * already (from a signal handler).
 *
 *   waiter                        reader
 *   queue its lock      (A)       free the turn        (C)
 *   look at the turn    (B)       wake the queue       (D)
 * All four under the object's lock, so either B finds it free or D finds the waiter. */
#include "state.h"

typedef struct TurnObject {
    PyObject_HEAD
    unsigned long owner; /* thread, while depth > 0 */
    unsigned depth;
    unsigned long streak; /* how often bnd_turn_take gave it */
    PyObject *queue;      /* list of locks */
    PyObject *standby;    /* a lock, or None */
} TurnObject;

PyDoc_STRVAR(turn_doc,
"Turn()\n--\n\n"
"`with turn as mine:` says whether this thread has the turn now; never waits.\n"
"join(lock): True, and the lock is released when the turn is free; False: it is free now.\n"
"leave(lock): do not wait any more; pass on what that lock may have been told.");

static int turn_init(TurnObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    if (!PyArg_ParseTuple(args, ":Turn"))
        return -1;
    Py_XSETREF(self->queue, PyList_New(0));
    Py_XSETREF(self->standby, Py_NewRef(Py_None));
    return self->queue != NULL ? 0 : -1;
}

static int turn_traverse(TurnObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->queue);
    Py_VISIT(self->standby);
    return 0;
}

static int turn_clear(TurnObject *self)
{
    Py_CLEAR(self->queue);
    Py_CLEAR(self->standby);
    return 0;
}

static void turn_dealloc(TurnObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    turn_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *turn_enter(TurnObject *self, PyObject *Py_UNUSED(unused))
{
    unsigned long me = PyThread_get_thread_ident();
    bool mine;
    HUB_BEGIN_CRITICAL(self);
    mine = self->depth == 0 || self->owner == me;
    if (mine) {
        self->owner = me;
        self->depth++;
    }
    HUB_END_CRITICAL();
    return PyBool_FromLong(mine);
}

/* The lock of who is to be woken, if the turn is free: a new reference, or NULL. */
static PyObject *take_next(TurnObject *self)
{
    PyObject *next = NULL;
    if (self->depth > 0 || self->queue == NULL)
        return NULL;
    if (PyList_GET_SIZE(self->queue) > 0) {
        next = Py_NewRef(PyList_GET_ITEM(self->queue, 0));
        if (PyList_SetSlice(self->queue, 0, 1, NULL) < 0)
            PyErr_Clear(); /* woken once more later */
    } else if (self->standby != Py_None) {
        next = Py_NewRef(self->standby);
        Py_SETREF(self->standby, Py_NewRef(Py_None));
    }
    return next;
}

/* Outside the object's lock. One that was told already is not locked: RuntimeError. */
static void wake(PyObject *lock)
{
    if (lock == NULL)
        return;
    PyObject *result = PyObject_CallMethod(lock, "release", NULL);
    if (result == NULL)
        PyErr_Clear();
    Py_XDECREF(result);
    Py_DECREF(lock);
}

static PyObject *turn_exit(TurnObject *self, PyObject *const *Py_UNUSED(args),
                           Py_ssize_t Py_UNUSED(nargs))
{
    unsigned long me = PyThread_get_thread_ident();
    PyObject *next = NULL;
    HUB_BEGIN_CRITICAL(self);
    if (self->depth > 0 && self->owner == me) {
        self->depth--;                /* C */
        if (self->depth == 0)
            next = take_next(self);   /* D */
    }
    HUB_END_CRITICAL();
    wake(next);
    Py_RETURN_FALSE;
}

/* ---- from C -------------------------------------------------------------- */
bool bnd_turn_take(PyObject *turn)
{
    TurnObject *self = (TurnObject *)turn;
    bool mine;
    HUB_BEGIN_CRITICAL(self);
    mine = self->depth == 0;
    if (mine) {
        self->owner = PyThread_get_thread_ident();
        self->depth = 1;
        self->streak++;
    }
    HUB_END_CRITICAL();
    return mine;
}

void bnd_turn_give(PyObject *turn)
{
    TurnObject *self = (TurnObject *)turn;
    PyObject *next;
    HUB_BEGIN_CRITICAL(self);
    self->depth--;
    next = take_next(self);
    HUB_END_CRITICAL();
    if (next == NULL)
        return;
    PyObject *type, *value, *traceback; /* one may be set: it is the caller's */
    PyErr_Fetch(&type, &value, &traceback);
    wake(next);
    PyErr_Restore(type, value, traceback);
}

/* ---- from Python, on --------------------------------------------------------- */
static PyObject *turn_join(TurnObject *self, PyObject *lock)
{
    bool waits;
    int rc = 0;
    HUB_BEGIN_CRITICAL(self);
    waits = self->depth > 0;
    if (waits)
        rc = PyList_Append(self->queue, lock);
    HUB_END_CRITICAL();
    return rc < 0 ? NULL : PyBool_FromLong(waits);
}

static PyObject *turn_leave(TurnObject *self, PyObject *lock)
{
    PyObject *next;
    HUB_BEGIN_CRITICAL(self);
    for (Py_ssize_t i = PyList_GET_SIZE(self->queue) - 1; i >= 0; i--)
        if (PyList_GET_ITEM(self->queue, i) == lock && PyList_SetSlice(self->queue, i, i + 1, NULL))
            PyErr_Clear();
    next = take_next(self);
    HUB_END_CRITICAL();
    wake(next);
    Py_RETURN_NONE;
}

static PyObject *turn_get_taken(TurnObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->depth > 0);
}

static PyObject *turn_get_mine(TurnObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->depth > 0 && self->owner == PyThread_get_thread_ident());
}

static PyObject *turn_get_waiting(TurnObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSsize_t(self->queue != NULL ? PyList_GET_SIZE(self->queue) : 0);
}

static PyObject *turn_get_streak(TurnObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(self->streak);
}

/* Arm: True, and the lock is released when the turn is free and nobody queues; False: it
 * is free now. */
static PyObject *turn_stand_by(TurnObject *self, PyObject *lock)
{
    bool waits;
    PyObject *old;
    HUB_BEGIN_CRITICAL(self);
    waits = self->depth > 0;
    old = self->standby;
    self->standby = Py_NewRef(waits ? lock : Py_None);
    HUB_END_CRITICAL();
    Py_XDECREF(old);
    return PyBool_FromLong(waits);
}

static PyMethodDef turn_methods[] = {
    {"__enter__", (PyCFunction)turn_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))turn_exit, METH_FASTCALL, NULL},
    {"join", (PyCFunction)turn_join, METH_O,
     PyDoc_STR("join($self, lock, /)\n--\n\nQueue for the turn; False: it is free, not queued.")},
    {"leave", (PyCFunction)turn_leave, METH_O,
     PyDoc_STR("leave($self, lock, /)\n--\n\nOut of the queue; a free turn is told to the next.")},
    {"stand_by", (PyCFunction)turn_stand_by, METH_O,
     PyDoc_STR("stand_by($self, lock, /)\n--\n\n"
               "Release it once when the turn is free and nobody queues; False: free now.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef turn_getset[] = {
    {"taken", (getter)turn_get_taken, NULL, PyDoc_STR("Has any thread the turn?"), NULL},
    {"mine", (getter)turn_get_mine, NULL,
     PyDoc_STR("Has this thread the turn: below a signal handler, say?"), NULL},
    {"streak", (getter)turn_get_streak, NULL,
     PyDoc_STR("How often a Caller or a Callee has had it; wraps."), NULL},
    {"waiting", (getter)turn_get_waiting, NULL, PyDoc_STR("How many queue."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, (void *)turn_doc},
    {Py_tp_init, turn_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_methods, turn_methods},
    {Py_tp_getset, turn_getset},
    {0, NULL},
};

PyType_Spec bnd_turn_spec = {
    .name = "shmhub._core.Turn",
    .basicsize = sizeof(TurnObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = turn_slots,
};
