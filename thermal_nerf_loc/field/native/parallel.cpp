// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <pthread.h>

#include <atomic>

namespace native {
namespace {

struct Job {
  void (*work)(void*, int64_t);
  void* context;
  int64_t blocks;
  std::atomic<int64_t> next;
  int wanted;   // helpers that may still join
  int helping;  // helpers at work
  Job* following;
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
pthread_cond_t helper_left = PTHREAD_COND_INITIALIZER;
Job* jobs = nullptr;
int helpers = 0;

void take_part(Job* job) {
  for (int64_t block; (block = job->next.fetch_add(1)) < job->blocks;) {
    job->work(job->context, block);
  }
}

void* help(void*) {
  pthread_mutex_lock(&lock);
  for (;;) {
    Job* job = jobs;
    while (job && !job->wanted) job = job->following;
    if (!job) {
      pthread_cond_wait(&arrived, &lock);
      continue;
    }
    --job->wanted;
    ++job->helping;
    pthread_mutex_unlock(&lock);
    take_part(job);
    pthread_mutex_lock(&lock);
    if (--job->helping == 0) pthread_cond_broadcast(&helper_left);
  }
  return nullptr;
}

// A child process has the memory of its parent, but none of its helpers.
void forget_helpers() {
  pthread_mutex_init(&lock, nullptr);
  pthread_cond_init(&arrived, nullptr);
  pthread_cond_init(&helper_left, nullptr);
  jobs = nullptr;
  helpers = 0;
}

// With the lock held. Helpers that cannot be had are done without.
void need_helpers(int count) {
  static bool prepared = false;
  if (!prepared) prepared = pthread_atfork(nullptr, nullptr, forget_helpers) == 0;
  while (helpers < count) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, help, nullptr) != 0) return;
    pthread_detach(thread);
    ++helpers;
  }
}

}  // namespace

void run_parallel(int64_t blocks, int threads, void (*work)(void*, int64_t), void* context) {
  const int64_t useful = threads < blocks ? threads : blocks;
  Job job = {work, context, blocks, {0}, static_cast<int>(useful > 0 ? useful - 1 : 0), 0,
             nullptr};
  if (!job.wanted) return take_part(&job);
  pthread_mutex_lock(&lock);
  need_helpers(job.wanted);
  job.following = jobs;
  jobs = &job;
  pthread_cond_broadcast(&arrived);
  pthread_mutex_unlock(&lock);
  take_part(&job);
  pthread_mutex_lock(&lock);
  job.wanted = 0;
  while (job.helping) pthread_cond_wait(&helper_left, &lock);
  Job** place = &jobs;
  while (*place != &job) place = &(*place)->following;
  *place = job.following;
  pthread_mutex_unlock(&lock);
}

}  // namespace native
