/* module.c - shmhub._core: the C core as Python sees it.
 *
 * Private to the package, whose public classes derive from the types here.  Multi-
 * phase init, heap types, all state in hub_state.  Neither per-interpreter GIL nor
 * free threading is declared yet, though nothing here stands in their way. */
#include "state.h"

static const char *const names[HUB_NAME_COUNT] = {
    [HUB_NAME_TO] = "to",
    [HUB_NAME_CHANNEL] = "channel",
    [HUB_NAME_METHOD] = "method",
    [HUB_NAME_FLAGS] = "flags",
    [HUB_NAME_MESSAGE_ID] = "message_id",
    [HUB_NAME_DEADLINE] = "deadline",
    [HUB_NAME_TIMEOUT] = "timeout",
    [HUB_NAME_NBYTES] = "nbytes",
    [HUB_NAME_MAX_FRAMES] = "max",
    [HUB_NAME_DATA] = "data",
    [HUB_NAME_OFFSET] = "offset",
};

static int intern_names(hub_state *state)
{
    for (int i = 0; i < HUB_NAME_COUNT; i++) {
        state->names[i] = PyUnicode_InternFromString(names[i]);
        if (state->names[i] == NULL)
            return -1;
    }
    return 0;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **ret)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL)
        return -1;
    *ret = type; /* the state's reference */
    return PyModule_AddType(module, type);
}

static int add_types(PyObject *module, hub_state *state)
{
    if (add_type(module, &bnd_host_spec, &state->host_type) < 0 ||
        add_type(module, &bnd_peer_spec, &state->peer_type) < 0 ||
        add_type(module, &bnd_doorbell_spec, &state->doorbell_type) < 0 ||
        add_type(module, &bnd_transport_spec, &state->transport_type) < 0 ||
        add_type(module, &bnd_slot_spec, &state->slot_type) < 0 ||
        add_type(module, &bnd_frame_spec, &state->frame_type) < 0 ||
        add_type(module, &bnd_turn_spec, &state->turn_type) < 0 ||
        add_type(module, &bnd_caller_spec, &state->caller_type) < 0 ||
        add_type(module, &bnd_callee_spec, &state->callee_type) < 0 ||
        add_type(module, &bnd_gate_spec, &state->gate_type) < 0)
        return -1;
    return 0;
}

/* What was built, for those who must fit to it. */
static int add_abi(PyObject *module)
{
#ifdef HUB_TEST_WRAP
    PyObject *test_wrap = Py_True; /* counters begin near their ends */
#else
    PyObject *test_wrap = Py_False;
#endif
    PyObject *abi = Py_BuildValue(
        "{s:(ii),s:i,s:i,s:i,s:i,s:i,s:O}", "version", HUB_VERSION_MAJOR, HUB_VERSION_MINOR,
        "inline_max", HUB_INLINE_MAX, "peers_max", HUB_PEERS_MAX, "classes_max", HUB_CLASSES_MAX,
        "ref_class_bits", 32 - HUB_REF_INDEX_BITS, "ref_index_bits", HUB_REF_INDEX_BITS,
        "test_wrap", test_wrap);
    if (abi == NULL)
        return -1;
    int rc = PyModule_AddObjectRef(module, "abi", abi);
    Py_DECREF(abi);
    return rc;
}

static int core_exec(PyObject *module)
{
    hub_state *state = PyModule_GetState(module);
    if (bnd_errors_init(state) < 0 || intern_names(state) < 0 || add_types(module, state) < 0)
        return -1;
    return add_abi(module);
}

static int core_traverse(PyObject *module, visitproc visit, void *arg)
{
    hub_state *state = PyModule_GetState(module);
    Py_VISIT(state->host_type);
    Py_VISIT(state->peer_type);
    Py_VISIT(state->doorbell_type);
    Py_VISIT(state->transport_type);
    Py_VISIT(state->slot_type);
    Py_VISIT(state->frame_type);
    Py_VISIT(state->turn_type);
    Py_VISIT(state->caller_type);
    Py_VISIT(state->callee_type);
    Py_VISIT(state->gate_type);
    for (int i = 0; i < HUB_ERROR_CLASSES; i++)
        Py_VISIT(state->errors[i]);
    return 0;
}

static int core_clear(PyObject *module)
{
    hub_state *state = PyModule_GetState(module);
    bnd_frame_objects_forget(state);
    bnd_slot_objects_forget(state);
    Py_CLEAR(state->host_type);
    Py_CLEAR(state->peer_type);
    Py_CLEAR(state->doorbell_type);
    Py_CLEAR(state->transport_type);
    Py_CLEAR(state->slot_type);
    Py_CLEAR(state->frame_type);
    Py_CLEAR(state->turn_type);
    Py_CLEAR(state->caller_type);
    Py_CLEAR(state->callee_type);
    Py_CLEAR(state->gate_type);
    for (int i = 0; i < HUB_ERROR_CLASSES; i++)
        Py_CLEAR(state->errors[i]);
    for (int i = 0; i < HUB_NAME_COUNT; i++)
        Py_CLEAR(state->names[i]);
    return 0;
}

static void core_free(void *module)
{
    core_clear((PyObject *)module);
}

static PyMethodDef core_methods[] = {
    {"inspect", bnd_inspect_method, METH_O,
     PyDoc_STR("inspect($module, path_or_fd, /)\n--\n\n"
               "A read-only look at a hub, live or dead, as a dict; nobody is disturbed.\n"
               "Raises HubFormatError, OSError.")},
    {"plain_encode", (PyCFunction)(void (*)(void))bnd_plain_encode_method, METH_FASTCALL,
     PyDoc_STR("plain_encode($module, obj, buffers, limit, arrays, /)\n--\n\n"
               "Plain data as bytes; large buffers are appended to the list `buffers` (or None).\n"
               "None: it is not plain, or takes more than `limit` bytes beside those buffers.\n"
               "A negative limit: there is none, and TypeError or ValueError says what is wrong.\n"
               "arrays: large arrays of numpy count as plain (with a limit).")},
    {"plain_decode", (PyCFunction)(void (*)(void))bnd_plain_decode_method, METH_FASTCALL,
     PyDoc_STR("plain_decode($module, data, buffers, views, array, /)\n--\n\n"
               "The inverse. `buffers`: the large ones, or None. `views`: None; True: bytes come as\n"
               "a memoryview; a set: so do the elements of the tuple with these indices, and of the\n"
               "dict at its end with these keys. array: called with shape, dtype and buffer of each\n"
               "array; None: there may be none. ValueError: data are not plain data.")},
    {"die_with_parent", bnd_die_with_parent_method, METH_VARARGS,
     PyDoc_STR("die_with_parent($module, parent, grace, /)\n--\n\n"
               "Have the kernel end this process `grace` seconds after the thread that started it.\n"
               "parent: its pid; 0: only if a signal for that is set already. False: not armed, or\n"
               "that parent is gone. Raises OSError.")},
    {"keep_freed_memory", bnd_keep_freed_memory_method, METH_NOARGS,
     PyDoc_STR("keep_freed_memory($module, /)\n--\n\n"
               "Let malloc keep up to 64 MiB that are free instead of giving them back to the\n"
               "kernel. False: this C library is not told so.")},
    {"unlink_if_stale", bnd_unlink_if_stale_method, METH_O,
     PyDoc_STR("unlink_if_stale($module, path, /)\n--\n\n"
               "Remove a named hub whose host is dead: True; False if it is alive.\n"
               "Raises HubFormatError, OSError.")},
    {"fsck", bnd_fsck_method, METH_VARARGS,
     PyDoc_STR("fsck($module, path_or_fd, repair, /)\n--\n\n"
               "Check a hub from outside, or repair the remains of a named one: a dict.\n"
               "Raises HubFormatError, HubExistsError (its host lives), OSError.")},
    {"fsck_dump", bnd_fsck_dump_method, METH_VARARGS,
     PyDoc_STR("fsck_dump($module, path, which, /)\n--\n\n"
               "Check the hub number `which` in a core dump: a dict, None if there is none.\n"
               "Raises HubFormatError, OSError.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmhub._core",
    .m_doc = PyDoc_STR("The C core as Python sees it. Private: see the package."),
    .m_size = sizeof(hub_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
