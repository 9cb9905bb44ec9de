"""Command lines of people who lost something by what the kernel believed, as they were typed, and
what they should have seen.

In each, ``M`` is the mount point and ``snapfs`` the command, whose own output is left out.
"""

from __future__ import annotations

STORIES: dict[str, tuple[str, str]] = {
    # Whole restores
    "what came back is deleted by its old name": (
        (
            "mkdir $M/project; echo x >$M/project/p; snapfs snapshot create $M s; mv "
            "$M/project $M/project.bad; ls $M/project 2>/dev/null;"
            "snapfs restore $M s; rm -r $M/project.bad 2>/dev/null; cat $M/project/p"
        ),
        "x\n",
    ),
    "a removed directory stays missing": (
        (
            "mkdir $M/project; echo x >$M/project/p; snapfs snapshot create $M s; rm -r "
            "$M/project; ls $M/project 2>/dev/null;"
            "snapfs restore $M s; cat $M/project/p"
        ),
        "x\n",
    ),
    "swapped directories show each other's content": (
        (
            "mkdir $M/one $M/two; echo 1 >$M/one/f; echo 2 >$M/two/f; snapfs snapshot create $M s;"
            "mv $M/one $M/x; mv $M/two $M/one; mv $M/x $M/two; cat $M/*/f >/dev/null; "
            "snapfs restore $M s; cat $M/one/f $M/two/f"
        ),
        "1\n2\n",
    ),
    "a removed symlink stays missing": (
        (
            "ln -s there $M/link; snapfs snapshot create $M s; rm $M/link; readlink "
            "$M/link; snapfs restore $M s; readlink $M/link"
        ),
        "there\n",
    ),
    "a removed file stays missing": (
        (
            "echo x >$M/file; snapfs snapshot create $M s; rm $M/file; cat $M/file "
            "2>/dev/null; snapfs restore $M s; cat $M/file"
        ),
        "x\n",
    ),
    "a pipe in a directory's place is an I/O error": (
        (
            "mkdir $M/d; echo x >$M/d/f; snapfs snapshot create $M s; rm -r $M/d; "
            "mkfifo $M/d; ls -l $M/d >/dev/null;"
            "snapfs restore $M s; cat $M/d/f"
        ),
        "x\n",
    ),
    "what was closed stays open": (
        (
            "chmod 700 $M; touch $M/a; snapfs snapshot create $M closed; rm $M/a; chmod "
            "755 $M; stat $M >/dev/null;"
            "snapfs restore $M closed; stat -c %a $M $M/.snap/closed"
        ),
        "700\n700\n",
    ),
    "an owner of the root stays": (
        (
            "chown 65533:65534 $M; touch $M/a; snapfs snapshot create $M s; chown 0:0 "
            "$M; stat $M >/dev/null;"
            "snapfs restore $M s; stat -c %u:%g $M"
        ),
        "65533:65534\n",
    ),
    # What is in use
    "a directory whose file is open comes back empty": (
        (
            "mkdir $M/project; echo hi >$M/project/paper.txt; echo l >$M/project/log; "
            "mkdir $M/.snap/s; exec 8<$M/project/log;"
            "rm -r $M/project; snapfs restore $M s --path /project; ls $M/project"
        ),
        "log\npaper.txt\n",
    ),
    "a directory that is open comes back empty": (
        (
            "mkdir $M/project; echo hi >$M/project/paper.txt; mkdir $M/project/.snap/s; "
            "exec 8<$M/project;"
            "rm -r $M/project/paper.txt; rmdir $M/project; snapfs restore $M s; ls $M/project;"
            "echo new >$M/project/new; cat $M/project/new"
        ),
        "paper.txt\nnew\n",
    ),
    "a directory that somebody works in comes back empty": (
        (
            "mkdir $M/project; echo hi >$M/project/paper.txt; mkdir $M/.snap/s; cd $M/project;"
            "rm -r $M/project; snapfs restore $M s; ls $M/project; rm "
            "$M/project/paper.txt; rmdir $M/project; cd /"
        ),
        "paper.txt\n",
    ),
    "a directory that another replaced by a rename comes back empty": (
        (
            "mkdir $M/project $M/other; echo hi >$M/project/paper.txt; mkdir "
            "$M/.snap/s; cd $M/project; rm paper.txt;"
            "mv -T $M/other $M/project; snapfs restore $M s --path /project; ls $M/project; cd /"
        ),
        "paper.txt\n",
    ),
    "an open file whose mode came back is an I/O error": (
        (
            "echo x >$M/f; snapfs snapshot create $M s; exec 8<$M/f; chmod 600 $M/f; "
            "snapfs restore $M s --path f;stat -c %a $M/f; cat <&8"
        ),
        "644\nx\n",
    ),
    "an open file whose bytes came back is an I/O error": (
        (
            "echo x >$M/f; snapfs snapshot create $M s; exec 8<$M/f; echo x >$M/f; "
            "snapfs restore $M s; cat $M/f; cat <&8"
        ),
        "x\nx\n",
    ),
    "an open file that came back after unlink is an I/O error": (
        (
            "echo x >$M/f; snapfs snapshot create $M s; exec 8<$M/f; rm $M/f; snapfs "
            "restore $M s --path /f; cat $M/f; cat <&8"
        ),
        "x\nx\n",
    ),
}
