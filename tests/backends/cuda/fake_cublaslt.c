/* Stands in for libcublasLt in tests: the functions that Lamina calls, on host memory.
 *
 * Three algorithms are proposed.  Algorithm n needs 256*n bytes of workspace, which it writes to;
 * algorithm 3 does not run products with more than 64 rows of the library's (columns of ours).
 * Names, order of parameters and numbers are those of cublasLt.h.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 7, UNSUPPORTED = 15 };
enum { F32 = 0, F16 = 2, BF16 = 14 };

typedef struct { int type; uint64_t rows, cols; int64_t ld; int32_t batch; int64_t offset; } Layout;
typedef struct { int compute, scale; int32_t ta, tb; uint32_t epilogue; const void *bias; } Product;
typedef struct { uint64_t workspace; uint32_t alignment[4]; } Preference;
typedef struct { uint64_t data[8]; } Algo;
typedef struct { Algo algo; size_t workspace; int state; float waves; int reserved[4]; } Result;

size_t cublasLtGetVersion(void) { return 130100; }
const char *cublasLtGetStatusString(int s) { return s == INVALID ? "invalid value" : "unsupported"; }
int cublasLtCreate(void **h) { *h = malloc(1); return OK; }
int cublasLtDestroy(void *h) { free(h); return OK; }

int cublasLtMatrixLayoutCreate(Layout **l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (type != F32 && type != F16 && type != BF16) return INVALID;
  if (ld < (int64_t)rows) return INVALID;
  *l = malloc(sizeof(Layout));
  **l = (Layout){type, rows, cols, ld, 1, 0};
  return OK;
}
int cublasLtMatrixLayoutDestroy(Layout *l) { free(l); return OK; }
int cublasLtMatrixLayoutSetAttribute(Layout *l, int a, const void *v, size_t n) {
  if (a == 5 && n == 4) memcpy(&l->batch, v, n);
  else if (a == 6 && n == 8) memcpy(&l->offset, v, n);
  else return INVALID;
  return OK;
}

int cublasLtMatmulDescCreate(Product **p, int compute, int scale) {
  if ((compute != 68 && compute != 77) || scale != F32) return INVALID;
  *p = calloc(1, sizeof(Product));
  **p = (Product){compute, scale, 0, 0, 1, 0};
  return OK;
}
int cublasLtMatmulDescDestroy(Product *p) { free(p); return OK; }
int cublasLtMatmulDescSetAttribute(Product *p, int a, const void *v, size_t n) {
  if (a == 3 && n == 4) memcpy(&p->ta, v, n);
  else if (a == 4 && n == 4) memcpy(&p->tb, v, n);
  else if (a == 7 && n == 4) memcpy(&p->epilogue, v, n);
  else if (a == 8 && n == 8) memcpy(&p->bias, v, n);
  else return INVALID;
  return OK;
}

int cublasLtMatmulPreferenceCreate(Preference **p) { *p = calloc(1, sizeof(Preference)); return OK; }
int cublasLtMatmulPreferenceDestroy(Preference *p) { free(p); return OK; }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int a, const void *v, size_t n) {
  if (a == 1 && n == 8) memcpy(&p->workspace, v, n);
  else if (a >= 5 && a <= 8 && n == 4) memcpy(&p->alignment[a - 5], v, n);
  else return INVALID;
  return OK;
}

static int fits(const Product *p, const Layout *a, const Layout *b, const Layout *c, const Layout *d) {
  uint64_t m = p->ta ? a->cols : a->rows, k = p->ta ? a->rows : a->cols;
  uint64_t k2 = p->tb ? b->cols : b->rows, n = p->tb ? b->rows : b->cols;
  if (k != k2 || d->rows != m || d->cols != n || c->rows != m || c->cols != n) return 0;
  return a->batch == b->batch && b->batch == c->batch && c->batch == d->batch;
}

int cublasLtMatmulAlgoCheck(void *h, Product *p, Layout *a, Layout *b, Layout *c, Layout *d,
                            const Algo *algo, Result *r) {
  uint64_t id = algo->data[0];
  if (!fits(p, a, b, c, d)) return INVALID;
  if (id < 1 || id > 3 || (id == 3 && d->rows > 64)) return UNSUPPORTED;
  r->workspace = 256 * id;
  r->state = OK;
  r->waves = 1.0f;
  return OK;
}

int cublasLtMatmulAlgoGetHeuristic(void *h, Product *p, Layout *a, Layout *b, Layout *c, Layout *d,
                                   Preference *f, int wanted, Result *found, int *count) {
  if (wanted < 1) return INVALID;
  for (int i = 0; i < 4; i++) if (f->alignment[i] != 16) return INVALID;
  if (p->bias && (uintptr_t)p->bias % 16) return INVALID;
  *count = 0;
  for (uint64_t id = 1; id <= 3 && *count < wanted; id++) {
    Result *r = &found[*count];
    memset(r, 0, sizeof *r);
    r->algo.data[0] = id;
    int status = cublasLtMatmulAlgoCheck(h, p, a, b, c, d, &r->algo, r);
    if (status == OK && r->workspace <= f->workspace) ++*count;
    else if (status == INVALID) return INVALID;
  }
  return *count ? OK : UNSUPPORTED;
}

int cublasLtMatmulAlgoConfigGetAttribute(const Algo *algo, int a, void *v, size_t n, size_t *written) {
  uint64_t value = a == 0 ? 60 + algo->data[0] : a == 1 ? 15 : a == 2 ? 1 : 0;
  if (a < 0 || a > 8 || n != (a >= 7 ? 2u : 4u)) return INVALID;
  memcpy(v, &value, n);
  *written = n;
  return OK;
}

static float get(const void *x, int type, int64_t i) {
  if (type == F32) return ((const float *)x)[i];
  if (type == F16) return (float)((const _Float16 *)x)[i];
  uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static void set(void *x, int type, int64_t i, float f) {
  if (type == F32) ((float *)x)[i] = f;
  else if (type == F16) ((_Float16 *)x)[i] = (_Float16)f;
  else {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    ((uint16_t *)x)[i] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

int cublasLtMatmul(void *h, Product *p, const float *alpha, const void *A, Layout *a, const void *B,
                   Layout *b, const float *beta, const void *C, Layout *c, void *D, Layout *d,
                   const Algo *algo, void *workspace, size_t size, void *stream) {
  Result r;
  if (cublasLtMatmulAlgoCheck(h, p, a, b, c, d, algo, &r)) return UNSUPPORTED;
  if (size < r.workspace || (uintptr_t)workspace % 256) return INVALID;
  if (((uintptr_t)A | (uintptr_t)B | (uintptr_t)C | (uintptr_t)D) % 16) return INVALID;
  if ((p->epilogue & 4) && (!p->bias || (uintptr_t)p->bias % 16)) return INVALID;
  memset(workspace, 0xee, r.workspace);
  uint64_t depth = p->ta ? a->rows : a->cols;
  for (int64_t z = 0; z < d->batch; z++)
    for (uint64_t j = 0; j < d->cols; j++)
      for (uint64_t i = 0; i < d->rows; i++) {
        float sum = 0;
        for (uint64_t k = 0; k < depth; k++) {
          int64_t x = p->ta ? i * a->ld + k : k * a->ld + i, y = p->tb ? k * b->ld + j : j * b->ld + k;
          sum += get(A, a->type, z * a->offset + x) * get(B, b->type, z * b->offset + y);
        }
        sum *= *alpha;
        if (*beta != 0) sum += *beta * get(C, c->type, z * c->offset + j * c->ld + i);
        if (p->epilogue & 4) sum += get(p->bias, d->type, i);
        if (p->epilogue & 2) sum = sum > 0 ? sum : 0;
        if (p->epilogue & 32)
          sum = 0.5f * sum * (1 + tanhf(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
        set(D, d->type, z * d->offset + j * d->ld + i, sum);
      }
  return OK;
}
