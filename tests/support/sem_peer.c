/* A program that knows nothing of ipcio: named semaphores by sem_open(3).

   sem_peer create NAME VALUE    make one exclusively
   sem_peer ensure NAME VALUE    make one or open what is there
   sem_peer open NAME            open what is there
   sem_peer unlink NAME          remove the name

   It prints "open", or "errno N", and obeys lines on stdin until they end:
   "wait" prints "waiting" and, once it has a permit, "done";  "timed MS" the same,
   but "again" when the time is up;  "try" prints "done" or "again";  "post" prints
   "done";  "value" prints the number of permits.  */

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int
answer (int failed)
{
  if (!failed)
    puts ("done");
  else if (errno == EAGAIN || errno == ETIMEDOUT)
    puts ("again");
  else
    printf ("errno %d\n", errno);
  fflush (stdout);
  return failed;
}

static int
timed (sem_t *sem, long milliseconds)
{
  struct timespec end;

  clock_gettime (CLOCK_REALTIME, &end);
  end.tv_sec += milliseconds / 1000;
  end.tv_nsec += milliseconds % 1000 * 1000000;
  if (end.tv_nsec >= 1000000000)
    {
      end.tv_sec++;
      end.tv_nsec -= 1000000000;
    }
  return sem_timedwait (sem, &end);
}

int
main (int argc, char **argv)
{
  char name[300], line[100];
  sem_t *sem;
  long milliseconds;
  int value;

  if (argc < 3)
    return 2;
  value = argc > 3 ? atoi (argv[3]) : 0;
  snprintf (name, sizeof name, "/%s", argv[2]);
  if (strcmp (argv[1], "unlink") == 0)
    return answer (sem_unlink (name)) ? 1 : 0;
  if (strcmp (argv[1], "create") == 0)
    sem = sem_open (name, O_CREAT | O_EXCL, 0600, value);
  else if (strcmp (argv[1], "ensure") == 0)
    sem = sem_open (name, O_CREAT, 0600, value);
  else
    sem = sem_open (name, 0);
  if (sem == SEM_FAILED)
    return answer (-1) ? 1 : 0;
  puts ("open");
  fflush (stdout);
  while (fgets (line, sizeof line, stdin))
    {
      if (strcmp (line, "wait\n") == 0)
        {
          puts ("waiting");
          fflush (stdout);
          answer (sem_wait (sem));
        }
      else if (sscanf (line, "timed %ld", &milliseconds) == 1)
        {
          puts ("waiting");
          fflush (stdout);
          answer (timed (sem, milliseconds));
        }
      else if (strcmp (line, "try\n") == 0)
        answer (sem_trywait (sem));
      else if (strcmp (line, "post\n") == 0)
        answer (sem_post (sem));
      else if (sem_getvalue (sem, &value) == 0)
        {
          printf ("%d\n", value);
          fflush (stdout);
        }
    }
  return sem_close (sem) ? 1 : 0;
}
