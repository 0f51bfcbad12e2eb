/* Meetings of ranks on a board (board.py) by flags in the shared memory, and reductions of what they wrote.
 *
 * Each rank has a line of its own: the number of the meeting that it has come to, and whether it sleeps. Coming to a
 * meeting stores the number with release order, after what was written; seeing it loads with acquire order, before it is
 * read: C11's rules, so this holds on weakly ordered processors. Whoever is about to sleep says so and looks once more,
 * whoever comes looks for sleepers after coming, both behind a sequentially consistent fence, so that one of the two sees
 * the other; sleepers are woken by the doorbells that Python holds.
 *
 * What board.py lays out: digests [2 sides][head bytes], lines [size][64], slots [2 sides][size][slot_bytes].
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define DIGEST_BYTES 16
#define LINE_BYTES 64
#define PATIENCE 1000 /* looks before other threads of this process may run */

enum { RING = 1, ABSENT = 2, DIFFERS = 4 };
enum { SUM_FLOAT32, SUM_FLOAT64, SUM_INT32, SUM_INT64, SUM_BFLOAT16, MAX_INT64 };

typedef struct {
    Py_buffer memory;
    Py_ssize_t rank, size, slot_bytes, head, lines, slots;
    uint64_t turn;     /* the number of the meeting that this rank has come to; the first is 1 */
    int64_t spin_ns;
} Board;

static _Atomic uint64_t *turn_of(const Board *board, Py_ssize_t rank) {
    return (_Atomic uint64_t *)((char *)board->memory.buf + board->lines + rank * LINE_BYTES);
}

static _Atomic uint64_t *sleeps(const Board *board, Py_ssize_t rank) { return turn_of(board, rank) + 1; }

static char *digests(const Board *board) {
    return (char *)board->memory.buf + (Py_ssize_t)((board->turn + 1) & 1) * board->head;
}

static char *slot(const Board *board, Py_ssize_t rank) {
    Py_ssize_t side = (Py_ssize_t)((board->turn + 1) & 1);
    return (char *)board->memory.buf + board->slots + (side * board->size + rank) * board->slot_bytes;
}

static int all_came(const Board *board) {
    for (Py_ssize_t r = 0; r < board->size; r++)
        if (atomic_load_explicit(turn_of(board, r), memory_order_acquire) < board->turn) return 0;
    return 1;
}

static void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int wait_spinning(const Board *board) {
    for (int look = 0; look < (board->spin_ns ? PATIENCE : 1); look++) {
        if (all_came(board)) return 1;
        pause_a_little();
    }
    if (!board->spin_ns) return 0;
    int came = 0;
    PyThreadState *state = PyEval_SaveThread();
    for (int64_t end = now_ns() + board->spin_ns; !came && now_ns() < end;)
        for (int look = 0; look < PATIENCE / 10 && !(came = all_came(board)); look++) pause_a_little();
    PyEval_RestoreThread(state);
    return came;
}

static Board *board_of(PyObject *capsule) { return PyCapsule_GetPointer(capsule, "axisplit.board"); }

static void forget(PyObject *capsule) {
    Board *board = board_of(capsule);
    PyBuffer_Release(&board->memory);
    PyMem_Free(board);
}

static PyObject *open_board(PyObject *module, PyObject *arguments) {
    Board *board = PyMem_Calloc(1, sizeof *board);
    if (!board) return PyErr_NoMemory();
    if (!PyArg_ParseTuple(arguments, "w*nnnnnnL", &board->memory, &board->rank, &board->size, &board->slot_bytes,
                          &board->head, &board->lines, &board->slots, &board->spin_ns)) {
        PyMem_Free(board);
        return NULL;
    }
    return PyCapsule_New(board, "axisplit.board", forget);
}

static PyObject *came(PyObject *module, PyObject *capsule) { return PyBool_FromLong(all_came(board_of(capsule))); }

/* sleep(board, whether): say that this rank is about to sleep, or is awake */
static PyObject *sleep_flag(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    Board *board = board_of(given[0]);
    atomic_store_explicit(sleeps(board, board->rank), (uint64_t)PyObject_IsTrue(given[1]), memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    Py_RETURN_NONE;
}

#define SUM(type)                                                                            \
    do {                                                                                     \
        type *total = out;                                                                   \
        const type *first = part(board, 0, own), *second = part(board, 1, own);              \
        for (size_t i = 0; i < count; i++) total[i] = first[i] + second[i];                  \
        for (Py_ssize_t r = 2; r < board->size; r++) {                                       \
            const type *next = part(board, r, own);                                          \
            for (size_t i = 0; i < count; i++) total[i] += next[i];                          \
        }                                                                                    \
    } while (0)

static const void *part(const Board *board, Py_ssize_t rank, const void *own) {
    return own && rank == board->rank ? own : slot(board, rank);
}

static float widened(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* to the nearest, ties to even; NaN as torch has it */
static uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static void sum_bfloat16(const Board *board, const void *own, uint16_t *out, size_t count) {
    const uint16_t *parts[board->size];
    for (Py_ssize_t r = 0; r < board->size; r++) parts[r] = part(board, r, own);
    for (size_t i = 0; i < count; i++) {
        float total = widened(parts[0][i]);
        for (Py_ssize_t r = 1; r < board->size; r++) total += widened(parts[r][i]);
        out[i] = rounded(total);
    }
}

static void max_int64(const Board *board, const void *own, int64_t *out, size_t count) {
    const int64_t *parts[board->size];
    for (Py_ssize_t r = 0; r < board->size; r++) parts[r] = part(board, r, own);
    for (size_t i = 0; i < count; i++) {
        int64_t most = parts[0][i];
        for (Py_ssize_t r = 1; r < board->size; r++) most = parts[r][i] > most ? parts[r][i] : most;
        out[i] = most;
    }
}

/* what all wrote for this meeting, in rank order; this rank wrote what is at `from`, where out may be, too */
static void combine(const Board *board, const void *from, void *out, size_t count, long how) {
    const void *own = from == out ? NULL : from;
    if (how == SUM_FLOAT32) SUM(float);
    else if (how == SUM_FLOAT64) SUM(double);
    else if (how == SUM_INT32) SUM(uint32_t);
    else if (how == SUM_INT64) SUM(uint64_t);
    else if (how == SUM_BFLOAT16) sum_bfloat16(board, own, out, count);
    else max_int64(board, own, out, count);
}

/* meet(board, digest, address, num_bytes[, out, count, how]) -> flags: write so many bytes into the own slot, come to the
 * next meeting, wait; if that is all (flags are 0), combine into out what all wrote, where an out is given */
static PyObject *meet(PyObject *module, PyObject *const *given, Py_ssize_t num) {
    Board *board = board_of(given[0]);
    char *digest;
    Py_ssize_t length;
    if (!board || (num != 4 && num != 7) || PyBytes_AsStringAndSize(given[1], &digest, &length) < 0) return NULL;
    const void *from = PyLong_AsVoidPtr(given[2]);
    size_t num_bytes = PyLong_AsSize_t(given[3]);
    void *out = num == 7 ? PyLong_AsVoidPtr(given[4]) : NULL;
    size_t count = num == 7 ? PyLong_AsSize_t(given[5]) : 0;
    long how = num == 7 ? PyLong_AsLong(given[6]) : 0;
    if (PyErr_Occurred()) return NULL;
    board->turn++;
    if (num_bytes) memcpy(slot(board, board->rank), from, num_bytes);
    memcpy(digests(board) + board->rank * DIGEST_BYTES, digest, DIGEST_BYTES);
    atomic_store_explicit(turn_of(board, board->rank), board->turn, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    long flags = 0;
    for (Py_ssize_t r = 0; r < board->size; r++)
        if (r != board->rank && atomic_load_explicit(sleeps(board, r), memory_order_relaxed)) flags |= RING;
    if (flags || !wait_spinning(board)) return PyLong_FromLong(flags | ABSENT);
    for (Py_ssize_t r = 0; r < board->size; r++)
        if (memcmp(digests(board) + r * DIGEST_BYTES, digest, DIGEST_BYTES)) flags |= DIFFERS;
    if (out && !flags) combine(board, from, out, count, how);
    return PyLong_FromLong(flags);
}

/* reduce(board, address, out, count, how): combine into out what all wrote for this meeting */
static PyObject *reduce(PyObject *module, PyObject *const *given, Py_ssize_t num) {
    Board *board = board_of(given[0]);
    if (!board || num != 5) return NULL;
    const void *from = PyLong_AsVoidPtr(given[1]);
    void *out = PyLong_AsVoidPtr(given[2]);
    size_t count = PyLong_AsSize_t(given[3]);
    long how = PyLong_AsLong(given[4]);
    if (PyErr_Occurred()) return NULL;
    combine(board, from, out, count, how);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"open", open_board, METH_VARARGS, NULL},
    {"meet", (PyCFunction)(void (*)(void))meet, METH_FASTCALL, NULL},
    {"came", came, METH_O, NULL},
    {"sleep", (PyCFunction)(void (*)(void))sleep_flag, METH_FASTCALL, NULL},
    {"reduce", (PyCFunction)(void (*)(void))reduce, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_native(void) { return PyModuleDef_Init(&definition); }
