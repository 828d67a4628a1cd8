/* The reference model of engines.py as a C programmer would write it: a ring of waiting deliveries for each gap
   (constant gaps keep it sorted), a ring of due ones, a small heap of attempts under way, and a cheap generator.
   No trace, no addressed dice, no order among ties. Arguments: deliveries, seed. Prints attempts and CPU seconds. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORKERS = 8, GAPS = 5 };
static const double LATENCY = 0.1, SUCCESS = 0.8, GAP[GAPS] = {1, 10, 60, 300, 1800};

static uint64_t state[2];

static double uniform(void) { /* xorshift128+, Vigna 2014 */
    uint64_t a = state[0], b = state[1];
    state[0] = b;
    a ^= a << 23;
    state[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
    return (((state[1] + b) >> 11) + 0.5) / 9007199254740992.0;
}

static double exponential(double mean) { return -mean * log(uniform()); }

typedef struct { double due, created; int attempt; } Delivery;
typedef struct { Delivery *rows; size_t head, count, size; } Ring;

static void push(Ring *ring, Delivery one) {
    if (ring->count == ring->size) {
        size_t size = ring->size ? 2 * ring->size : 1024;
        Delivery *rows = malloc(size * sizeof *rows);
        for (size_t i = 0; i < ring->count; i++) rows[i] = ring->rows[(ring->head + i) & (ring->size - 1)];
        free(ring->rows);
        *ring = (Ring){rows, 0, ring->count, size};
    }
    ring->rows[(ring->head + ring->count++) & (ring->size - 1)] = one;
}

static Delivery pop(Ring *ring) {
    Delivery one = ring->rows[ring->head];
    ring->head = (ring->head + 1) & (ring->size - 1);
    ring->count--;
    return one;
}

static double ends[WORKERS];
static Delivery busy[WORKERS];
static int in_flight;

static void start(double end, Delivery one) {
    int i = in_flight++;
    for (; i && ends[(i - 1) / 2] > end; i = (i - 1) / 2) ends[i] = ends[(i - 1) / 2], busy[i] = busy[(i - 1) / 2];
    ends[i] = end, busy[i] = one;
}

static Delivery finish(void) {
    Delivery first = busy[0], last = busy[--in_flight];
    double end = ends[in_flight];
    int i = 0;
    for (int child; (child = 2 * i + 1) < in_flight; i = child) {
        if (child + 1 < in_flight && ends[child + 1] < ends[child]) child++;
        if (end <= ends[child]) break;
        ends[i] = ends[child], busy[i] = busy[child];
    }
    ends[i] = end, busy[i] = last;
    return first;
}

int main(int count, char **arguments) {
    long deliveries = count > 1 ? atol(arguments[1]) : 1000000;
    state[0] = (count > 2 ? strtoull(arguments[2], 0, 10) : 0) * 2654435761u + 1;
    state[1] = 88172645463325252u;
    double share = 0, rate, now, next, latency = 0, waited = 0;
    for (int k = 0; k <= GAPS; k++) share += pow(1 - SUCCESS, k);
    rate = 0.85 * WORKERS / LATENCY / share;
    Ring ready = {0}, waiting[GAPS] = {{0}};
    long created = 0, delivered = 0, lost = 0, attempts = 0;
    clock_t begun = clock();
    next = exponential(1 / rate);
    while (delivered + lost < deliveries) {
        int source = -1;
        now = created < deliveries ? next : INFINITY;
        for (int k = 0; k < GAPS; k++)
            if (waiting[k].count && waiting[k].rows[waiting[k].head].due < now)
                now = waiting[k].rows[waiting[k].head].due, source = k;
        if (in_flight && ends[0] < now) {
            now = ends[0];
            Delivery one = finish();
            attempts++;
            if (uniform() < SUCCESS) delivered++, latency += now - one.created;
            else if (one.attempt <= GAPS)
                push(&waiting[one.attempt - 1], (Delivery){now + GAP[one.attempt - 1], one.created, one.attempt + 1});
            else lost++;
        } else if (source >= 0) push(&ready, pop(&waiting[source]));
        else {
            push(&ready, (Delivery){now, now, 1});
            created++;
            next = now + exponential(1 / rate);
        }
        while (in_flight < WORKERS && ready.count) {
            Delivery one = pop(&ready);
            waited += now - one.due;
            start(now + exponential(LATENCY), one);
        }
    }
    printf("%ld %.6f %.6f %.6f\n", attempts, (double)(clock() - begun) / CLOCKS_PER_SEC, waited / attempts,
           latency / delivered);
    return 0;
}
