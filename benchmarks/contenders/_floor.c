/* _floor.c - the floor: what a message costs from Python when nothing is done but moving it.
 *
 * A pair of single-producer single-consumer rings in memory that both processes map. 64-byte cells
 * with the payload inside; `send(bytes)` and `recv() -> bytes` spin. No allocator, no checks, no
 * sleeping, no death of the other side: nothing that a product needs. A contender, never a product.
 *
 *   producer              consumer
 *   load head    (A)      load tail    (C)
 *   fill cell             copy cell
 *   store tail   (B)      store head   (D)
 * B pairs with C; D pairs with A. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define CELL_BYTES 64
#define CELLS 256u
#define SPINS_BEFORE_GIVING_UP (1ull << 33)

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

struct ring {
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) unsigned char cells[CELLS][CELL_BYTES];
};

struct pair {
    struct ring rings[2];
};

typedef struct {
    PyObject_HEAD
    struct pair *shared;
    struct ring *out;
    struct ring *in;
    uint64_t tail;       /* of out: only this side changes it */
    uint64_t head;       /* of in: likewise */
    uint64_t head_seen;  /* of out, as last loaded: saves a miss a send */
    uint64_t tail_seen;  /* of in, likewise */
} Pair;

static int gone(void)
{
    PyErr_SetString(PyExc_TimeoutError, "floor: the other side does not move");
    return -1;
}

static int wait_for_space(Pair *self)
{
    for (uint64_t left = SPINS_BEFORE_GIVING_UP; left > 0; left--) {
        self->head_seen = atomic_load_explicit(&self->out->head, memory_order_acquire); /* A */
        if (self->tail - self->head_seen < CELLS)
            return 0;
        RELAX();
    }
    return gone();
}

static int wait_for_cell(Pair *self)
{
    for (uint64_t left = SPINS_BEFORE_GIVING_UP; left > 0; left--) {
        self->tail_seen = atomic_load_explicit(&self->in->tail, memory_order_acquire); /* C */
        if (self->tail_seen != self->head)
            return 0;
        RELAX();
    }
    return gone();
}

static PyObject *pair_send(Pair *self, PyObject *payload)
{
    if (self->tail - self->head_seen >= CELLS && wait_for_space(self) < 0)
        return NULL;
    memcpy(self->out->cells[self->tail % CELLS], PyBytes_AS_STRING(payload), CELL_BYTES);
    self->tail++;
    atomic_store_explicit(&self->out->tail, self->tail, memory_order_release); /* B */
    Py_RETURN_NONE;
}

static PyObject *pair_recv(Pair *self, PyObject *Py_UNUSED(ignored))
{
    if (self->tail_seen == self->head && wait_for_cell(self) < 0)
        return NULL;
    PyObject *payload =
        PyBytes_FromStringAndSize((char *)self->in->cells[self->head % CELLS], CELL_BYTES);
    if (payload == NULL)
        return NULL;
    self->head++;
    atomic_store_explicit(&self->in->head, self->head, memory_order_release); /* D */
    return payload;
}

static PyObject *pair_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int fd, side;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "ii:Pair", &fd, &side))
        return NULL;
    void *memory =
        mmap(NULL, sizeof(struct pair), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    Pair *self = (Pair *)type->tp_alloc(type, 0);
    if (self == NULL) {
        munmap(memory, sizeof(struct pair));
        return NULL;
    }
    self->shared = memory;
    self->out = &self->shared->rings[side ? 1 : 0];
    self->in = &self->shared->rings[side ? 0 : 1];
    return (PyObject *)self;
}

static void pair_dealloc(Pair *self)
{
    PyTypeObject *type = Py_TYPE(self);
    munmap(self->shared, sizeof(struct pair));
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef pair_methods[] = {
    {"send", (PyCFunction)pair_send, METH_O, "send(bytes of 64): spins while the ring is full"},
    {"recv", (PyCFunction)pair_recv, METH_NOARGS, "recv() -> bytes of 64: spins while empty"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pair_slots[] = {
    {Py_tp_new, pair_new},
    {Py_tp_dealloc, pair_dealloc},
    {Py_tp_methods, pair_methods},
    {Py_tp_doc, "Pair(fd, side): both sides map fd; one is side 0, the other side 1"},
    {0, NULL},
};

static PyType_Spec pair_spec = {
    .name = "_floor.Pair",
    .basicsize = sizeof(Pair),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = pair_slots,
};

static int floor_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&pair_spec);
    if (type == NULL)
        return -1;
    if (PyModule_AddObject(module, "Pair", type) < 0) {
        Py_DECREF(type);
        return -1;
    }
    return PyModule_AddIntConstant(module, "SHARED_BYTES", (long)sizeof(struct pair));
}

static PyModuleDef_Slot floor_slots[] = {{Py_mod_exec, floor_exec}, {0, NULL}};

static struct PyModuleDef floor_module = {
    PyModuleDef_HEAD_INIT, .m_name = "_floor", .m_slots = floor_slots, .m_size = 0,
};

PyMODINIT_FUNC PyInit__floor(void)
{
    return PyModuleDef_Init(&floor_module);
}
