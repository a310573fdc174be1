"""Films: `lip_sync` in frames a second, and `render_video` beside FFmpeg's zoompan and MoviePy, with sizes and PSNR of what each wrote.

Two more rows are the time of a whole talking film (speech, mouth, captions) and that of FFmpeg doing its compositing alone: the same face,
the same captions burned in, the same sound, x264 with the same options. Needs `ffmpeg` on the path; MoviePy only for its row.
"""
