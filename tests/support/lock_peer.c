/* A program that knows nothing of ipcio: locks on ranges of a file by fcntl(2).

   lock_peer PATH classic    locks of the process
   lock_peer PATH open       locks of the open file

   It prints "open" and obeys lines on stdin until they end.  MODE is "r" or "rw",
   LENGTH 0 is to infinity:
   "try MODE START LENGTH" prints "done" or "again";  "wait MODE START LENGTH" prints
   "waiting" and, once it has the lock, "done";  "drop START LENGTH" prints "done";
   "test MODE START LENGTH" prints "free", or MODE START LENGTH PID of what is in the
   way.  What fails prints "errno N".  */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#ifndef F_OFD_SETLK
#define F_OFD_SETLK -1
#define F_OFD_SETLKW -1
#define F_OFD_GETLK -1
#endif

static int
say (const char *answer)
{
  puts (answer);
  return fflush (stdout);
}

static int
answer (int failed)
{
  char text[30];

  if (!failed)
    return say ("done");
  if (errno == EAGAIN || errno == EACCES)
    return say ("again");
  snprintf (text, sizeof text, "errno %d", errno);
  return say (text);
}

int
main (int argc, char **argv)
{
  char line[200], verb[10], mode[3], text[100];
  long long start, length;
  struct flock range;
  int fd, open_file;

  if (argc != 3)
    return 2;
  open_file = strcmp (argv[2], "open") == 0;
  fd = open (argv[1], O_RDWR | O_CLOEXEC);
  if (fd < 0)
    {
      answer (-1);
      return 1;
    }
  say ("open");
  while (fgets (line, sizeof line, stdin))
    {
      memset (&range, 0, sizeof range);
      range.l_whence = SEEK_SET;
      if (sscanf (line, "drop %lld %lld", &start, &length) == 2)
        {
          strcpy (verb, "drop");
          range.l_type = F_UNLCK;
        }
      else if (sscanf (line, "%9s %2s %lld %lld", verb, mode, &start, &length) == 4)
        range.l_type = strcmp (mode, "r") == 0 ? F_RDLCK : F_WRLCK;
      else
        return 2;
      range.l_start = start;
      range.l_len = length;
      if (strcmp (verb, "wait") == 0)
        {
          say ("waiting");
          answer (fcntl (fd, open_file ? F_OFD_SETLKW : F_SETLKW, &range));
        }
      else if (strcmp (verb, "test") != 0)
        answer (fcntl (fd, open_file ? F_OFD_SETLK : F_SETLK, &range));
      else if (fcntl (fd, open_file ? F_OFD_GETLK : F_GETLK, &range))
        answer (-1);
      else if (range.l_type == F_UNLCK)
        say ("free");
      else
        {
          snprintf (text, sizeof text, "%s %lld %lld %d", range.l_type == F_RDLCK ? "r" : "rw",
                    (long long) range.l_start, (long long) range.l_len, (int) range.l_pid);
          say (text);
        }
    }
  return 0;
}
