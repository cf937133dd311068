/* Answer `ping.py`: a C program without ipcio and a Python program with ipcio share objects, in both directions.

   In two terminals, the Python program first:

       python ping.py            cc pong.c -o pong -lrt -pthread && ./pong /pingpong

   It opens the segment and the semaphores that ping.py created, and creates a segment and a
   semaphore of its own, which ping.py attaches.  */

#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct record
{
  int64_t number; /* negative: the end */
  double value;
  char text[16];
};

static void
check (int good, const char *what)
{
  if (!good)
    {
      perror (what);
      exit (1);
    }
}

static struct record *
memory (const char *name, int flags)
{
  struct record *record;
  int fd = shm_open (name, flags, 0600);

  check (fd >= 0, name);
  if (flags & O_CREAT)
    check (ftruncate (fd, sizeof *record) == 0, name);
  record = mmap (NULL, sizeof *record, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  check (record != MAP_FAILED, name);
  close (fd);
  return record;
}

int
main (int argc, char **argv)
{
  const char *name = argc > 1 ? argv[1] : "/pingpong";
  char answers_name[256], asked_name[256], answered_name[256], there_name[256];
  struct record *question, *answer;
  sem_t *there, *asked, *answered;
  int count = 0;

  snprintf (answers_name, sizeof answers_name, "%s-c", name);
  snprintf (asked_name, sizeof asked_name, "%s-q", name);
  snprintf (answered_name, sizeof answered_name, "%s-a", name);
  snprintf (there_name, sizeof there_name, "%s-t", name);

  question = memory (name, O_RDWR);
  asked = sem_open (asked_name, 0);
  check (asked != SEM_FAILED, asked_name);
  there = sem_open (there_name, 0);
  check (there != SEM_FAILED, there_name);

  answer = memory (answers_name, O_RDWR | O_CREAT | O_EXCL);
  answered = sem_open (answered_name, O_CREAT | O_EXCL, 0600, 0);
  check (answered != SEM_FAILED, answered_name);
  sem_post (there);

  while (sem_wait (asked) == 0 && question->number >= 0)
    {
      answer->number = question->number * question->number;
      answer->value = question->value / 2;
      snprintf (answer->text, sizeof answer->text, "%.9s, too", question->text);
      count++;
      sem_post (answered);
    }
  printf ("C answered %d questions\n", count);
  shm_unlink (answers_name);
  sem_unlink (answered_name);
  return 0;
}
